import gc
import os

import ml_dtypes
import numpy as np
import onnx_ir as ir
from onnxq.graph import spill
from onnxq.graph.spill import Spill
from onnxq.graph.tensors import write


def test_within_the_budget_an_array_stays_itself():
    array = np.arange(100_000)
    assert Spill(budget=array.nbytes).keep(array) is array


def test_beyond_it_arrays_lie_in_a_file_without_a_name(monkeypatch):
    monkeypatch.setattr(spill, "_CHUNK", 1 << 20)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (300, 1000)).astype(np.uint8), rng.standard_normal((7, 11_111)).astype(np.float32)]
    arrays += [rng.integers(-8, 8, (100, 1000)).astype(ml_dtypes.int4), rng.standard_normal((3, 500_000))]
    keeper = Spill(budget=0)
    kept = [keeper.keep(array) for array in arrays]
    for array, copy in zip(arrays, kept, strict=True):
        assert copy is not array
        assert (copy.dtype, copy.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(copy, array)
        assert not copy.flags.writeable


def test_what_lies_there_is_written_like_any_tensor(tmp_path):
    array = np.random.default_rng(0).standard_normal((300, 1000)).astype(np.float32)
    tensor = ir.tensor(Spill(budget=0).keep(array))
    with (tmp_path / "data").open("wb") as file:
        write(tensor, file)
        write(tensor, file)  # its pages were given back in between
    assert (tmp_path / "data").read_bytes() == 2 * array.tobytes()


def test_the_file_goes_with_its_last_array(tmp_path, monkeypatch):
    monkeypatch.setattr(spill.tempfile, "tempdir", str(tmp_path))
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    keeper = Spill(budget=0)
    kept = keeper.keep(np.ones((300, 1000)))
    assert list(tmp_path.iterdir()) == []
    del keeper
    assert kept.sum() == 300_000
    del kept
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
