"""What runs the prepared graph in segments: bias correction and weight methods that go layer by layer."""
