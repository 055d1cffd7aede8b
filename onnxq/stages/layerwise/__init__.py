"""layerwise: bias correction and weight methods that run the prepared graph layer by layer, in segments."""
