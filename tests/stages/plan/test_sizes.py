"""No format makes a real model larger than it came."""

from pathlib import Path

import onnxq
import pytest
from onnxq.recipes import recipe_names

DIGITS = Path(__file__).parents[3] / "models" / "digits"
OPTIONS = {name: {"recipe": name} for name in recipe_names() if name != "w8a16"} | {
    "dynamic, portable, everywhere": {"format": "dynamic", "portable": True, "placement": "everywhere"},
    "weight-only, portable": {"format": "weight-only", "portable": True},
    "weight-only, 2 bits": {"format": "weight-only", "weights": "uint2,asymmetric,per-block(32)"},
    "codebook(4)": {"format": "weight-only", "weights": "codebook(4)"},
    "bfloat16": {"recipe": "fp16", "float_type": "bfloat16"},
    "auto": {"format": "auto"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_output_is_larger_than_its_input(name, tmp_path):
    output = tmp_path / "model.onnx"
    data = str(DIGITS / "calibration.npz")
    onnxq.quantize(
        DIGITS / "model.onnx", output, calibration=data, samples=8, check=False, allow_empty=True, **OPTIONS[name]
    )
    assert output.stat().st_size <= (DIGITS / "model.onnx").stat().st_size
