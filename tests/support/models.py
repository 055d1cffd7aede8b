"""Models as ONNX text whose constants are arrays."""

import re

import numpy as np
import onnx_ir as ir
from onnxq.graph.text import model_from_text


def model_with(text: str, **constants: np.ndarray) -> ir.Model:
    """Return the model that a text describes, its declared constants (`int8[4,2] w`) filled in."""
    for name, array in constants.items():
        values = ", ".join(repr(value) for value in array.reshape(-1).tolist())
        text, count = re.subn(rf"(\] {name})(?=[,>\n ])", rf"\1 = {{{values}}}", text, count=1)
        assert count == 1, name
    return model_from_text(text)
