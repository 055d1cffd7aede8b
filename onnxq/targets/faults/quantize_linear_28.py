"""QuantizeLinear of opset 28."""

from onnxq.targets.faults import faults
from onnxq.targets.faults._opsets import missing_linear

_FAULT = missing_linear(28, 1000, first="1.23.0", last="")
faults.add(_FAULT.name, _FAULT)
