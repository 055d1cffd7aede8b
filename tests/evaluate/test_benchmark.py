import math

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import open_source, signature
from onnxq.errors import ModelError, RecipeError
from onnxq.evaluate.benchmark import benchmark
from onnxq.files.load import file_bytes, load
from onnxq.files.pictures import benchmark_picture, check_picture
from onnxq.graph.text import model_from_text

NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[batch,seq,4] x) => (float[batch,seq,4] y)
<float[4,4] w = {1, -2, 0.5, 0.25, 1, -1, 2, 0.125, -0.5, -1, 0.75, 1.5, 1, 0, 0, 1}>
{ y = MatMul (x, w) }
"""


@pytest.fixture
def paths(tmp_path):
    """A model, the same one with y a tenth too large, and one of another interface."""
    texts = {
        "net": NET,
        "off": NET.replace(
            "{ y = MatMul (x, w) }", "{ m = MatMul (x, w) f = Constant <value = float {1.1}> () y = Mul (m, f) }"
        ),
        "other": NET.replace("x)", "z)").replace("(x,", "(z,"),
    }
    for name, text in texts.items():
        ir.save(model_from_text(text), tmp_path / f"{name}.onnx")
    return {name: tmp_path / f"{name}.onnx" for name in texts}


def test_models_are_measured_in_every_setting(paths):
    found = benchmark([paths["net"], paths["off"]], threads=(1, 2), batches=(1, 3), shapes={"seq": 5}, seconds=0)
    assert [(row.setting.threads, row.setting.batch) for row in found.rows[::2]] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert found.shapes == {"x": (1, 5, 4)}
    first, second = found.rows[:2]
    assert (first.speedup, first.sqnr) == (1.0, math.inf)
    assert second.sqnr == pytest.approx(20.0, abs=1e-3)  # an error of a tenth is 20 dB
    for row in found.rows:
        assert 0 < row.best_ms <= row.median_ms <= row.p95_ms
        assert row.throughput == pytest.approx(1e3 * row.setting.batch / row.median_ms)
        assert row.load_seconds > 0
        assert row.memory_bytes is None or row.memory_bytes >= 0
    assert first.file_bytes == paths["net"].stat().st_size == file_bytes(paths["net"])


def test_data_is_cut_or_repeated_to_the_batch(paths):
    data = [{"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4)}]
    source = open_source(data, signature(load(paths["net"])))
    found = benchmark([paths["net"]], batches=(1, 5), source=source, seconds=0)
    assert found.shapes == {"x": (1, 3, 4)}
    assert found.rows[1].setting.batch == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shapes": {"sek": 5}}, RecipeError, "did you mean 'seq'"),
        ({"providers": ("cpo",)}, RecipeError, "did you mean 'cpu'"),
    ],
)
def test_what_is_misspelt_is_refused(paths, options, error, message):
    with pytest.raises(error, match=message):
        benchmark([paths["net"]], seconds=0, **options)


def test_models_of_another_interface_are_refused(paths):
    with pytest.raises(ModelError):
        benchmark([paths["net"], paths["other"]], seconds=0)


def test_a_benchmark_can_be_drawn(paths, tmp_path):
    found = benchmark([paths["net"], paths["off"]], seconds=0)
    assert benchmark_picture(found, tmp_path / "a.png").startswith(b"\x89PNG")
    assert b"<svg" in benchmark_picture(found, tmp_path / "a.svg")
    with pytest.raises(ModelError, match="is not a picture"):
        check_picture(tmp_path / "a.txt")
