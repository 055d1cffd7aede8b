"""Judging: evaluation data is opened where models are judged, and only there."""

import numpy as np
import pytest
from onnxq import quantize
from onnxq.errors import CalibrationError
from onnxq.graph.text import model_from_text
from tests.support.quantizing import text

MODEL = text("y = MatMul (x, w)", "float[8,64] x", "float[8,32] y", "float[64,32] w")
NOTHING_TO_DO = text("y = Tanh (x)", "float[8,64] x", "float[8,64] y")
DATA = [{"x": np.random.default_rng(7).standard_normal((8, 64)).astype(np.float32)}]
OPTIONS = {"calibration": DATA, "format": "dynamic", "placement": "everywhere"}


@pytest.fixture
def model():
    return model_from_text(MODEL)


def unreadable():
    raise OSError("the evaluation data was read")


@pytest.mark.parametrize("broken", ["missing", "not-an-archive", "raises"])
def test_broken_evaluation_data_matters_to_who_judges_and_to_no_other(model, tmp_path, broken):
    file = tmp_path / "evaluation.npz"
    if broken == "not-an-archive":
        file.write_text("no archive")
    evaluation = unreadable if broken == "raises" else file
    assert quantize(model, **OPTIONS, evaluation=evaluation, check=False).verification is None
    with pytest.raises(CalibrationError, match=r"evaluation\.npz|the evaluation data was read"):
        quantize(model, **OPTIONS, evaluation=evaluation)


def test_a_broken_neighbour_of_the_calibration_file_is_left_alone_without_a_check(model, tmp_path):
    np.savez(tmp_path / "calibration.npz", **DATA[0])
    (tmp_path / "evaluation.npz").write_text("no archive")
    options = OPTIONS | {"calibration": tmp_path / "calibration.npz"}
    assert quantize(model, **options, check=False).model is not None
    with pytest.raises(CalibrationError, match=r"evaluation\.npz"):
        quantize(model, **options)


def test_missing_evaluation_data_is_told_before_anything_is_quantized(tmp_path):
    with pytest.raises(CalibrationError, match=r"missing\.npz"):  # and not, as later, that nothing can be quantized
        quantize(model_from_text(NOTHING_TO_DO), evaluation=tmp_path / "missing.npz")
