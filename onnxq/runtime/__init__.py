"""The only place that imports onnxruntime: sessions, taps, read-back of optimized graphs, timing."""
