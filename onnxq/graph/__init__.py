"""Helpers over onnx_ir: walking scopes, building nodes, constants, fingerprints."""
