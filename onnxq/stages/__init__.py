"""The stages that make a quantized model: prepare, equalize, calibrate, plan, layerwise methods, convert, rewrite."""
