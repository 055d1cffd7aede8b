"""Names of QuantizeLinear and DequantizeLinear: the standard's, and onnxruntime's own, which know more types."""

from __future__ import annotations

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""

QUANTIZE = ("QuantizeLinear", f"{CONTRIB}::QuantizeLinear")
DEQUANTIZE = ("DequantizeLinear", f"{CONTRIB}::DequantizeLinear")
