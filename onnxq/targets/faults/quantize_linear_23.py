"""QuantizeLinear of opset 23."""

from onnxq.targets.faults import faults
from onnxq.targets.faults._opsets import missing_linear

_FAULT = missing_linear(23, 24, first="1.23.0", last="1.23")
faults.add(_FAULT.name, _FAULT)
