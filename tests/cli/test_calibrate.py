"""`onnxq calibrate`, and what becomes of its file."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxq.cli.app import make_app
from onnxq.cli.data_options import KINDS, as_calibration
from onnxq.cli.options import parse_size
from onnxq.errors import OnnxqError, RecipeError
from typer.testing import CliRunner

import models


@pytest.fixture
def folder(tmp_path):
    digits = models.load("digits").path
    for name in ("model.onnx", "calibration.npz"):
        shutil.copy(digits.parent / name, tmp_path / name)
    return tmp_path


def _run(*words):
    return CliRunner().invoke(make_app(), [str(word) for word in words])


def test_statistics_give_the_model_that_the_data_give(folder):
    model, data = folder / "model.onnx", folder / "calibration.npz"
    assert _run("calibrate", model, "--calibration", data, "--samples", 20).exit_code == 0
    again = ("quantize", model, "--no-check", "--calibrator", "mse", "--quiet")
    _run(*again, "--statistics", folder / "model.stats.npz", "-o", folder / "a.onnx")
    _run(*again, "--calibration", data, "--samples", 20, "--batch-size", 3, "-o", folder / "b.onnx")
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def test_statistics_of_another_model_are_refused(folder):
    model = folder / "model.onnx"
    _run("calibrate", model, "--calibration", folder / "calibration.npz", "--samples", 4)
    other = onnx.load(model)
    weight = next(tensor for tensor in other.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(2), weight.name))
    onnx.save(other, folder / "other.onnx")
    done = _run("quantize", folder / "other.onnx", "--statistics", folder / "model.stats.npz")
    assert isinstance(done.exception, OnnxqError)
    assert "another model" in str(done.exception)
    assert not list(folder.glob("other.int8*"))


def test_an_existing_file_is_kept_without_force(folder):
    (folder / "model.stats.npz").write_bytes(b"mine")
    done = _run("calibrate", folder / "model.onnx", "--calibration", folder / "calibration.npz")
    assert isinstance(done.exception, OnnxqError)
    assert (folder / "model.stats.npz").read_bytes() == b"mine"


def test_sizes():
    assert parse_size("2GB") == 2_000_000_000
    assert parse_size("1000") == 1000
    with pytest.raises(RecipeError, match="'2x' is not a size"):
        parse_size("2x")


def test_data_options_become_a_source():
    given = {"images": "photos", "size": "224", "mean": "0.5,0.4,0.3"}
    assert as_calibration(given) == "images:photos?size=224&mean=0.5,0.4,0.3"
    assert as_calibration({}) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": "a", "wav": "b"}, "of one kind"),
        ({"size": "224"}, "--size goes with --images"),
        ({"images": "a", "max_length": "3"}, "--max-length goes with --text"),
    ],
)
def test_data_options_that_contradict(given, message):
    with pytest.raises(RecipeError, match=message):
        as_calibration(given)


def test_every_kind_of_data_has_all_its_options():
    import dataclasses

    from onnxq.data.audio import WaveOptions
    from onnxq.data.images import ImageOptions
    from onnxq.data.text import TextOptions

    for kind, options in (("images", ImageOptions), ("text", TextOptions), ("wav", WaveOptions)):
        assert set(KINDS[kind]) == {field.name for field in dataclasses.fields(options)}


def test_a_file_of_another_place_is_named(tmp_path):
    done = _run("quantize", Path(tmp_path) / "none.onnx", "--statistics", tmp_path / "none.npz")
    assert isinstance(done.exception, OnnxqError)
