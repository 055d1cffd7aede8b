"""Statistics on disk: exact, deterministic, and never half a file."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxq.calibrators import make_calibrator
from onnxq.data.statistics_file import load_statistics, save_statistics
from onnxq.errors import CalibrationError
from onnxq.numerics.histogram import Accumulator, empty, merge, observe
from onnxq.types.scheme import QuantType, Scheme
from onnxq.types.statistics import Statistics, TensorStatistics


def plain(value: Any) -> Any:
    """Everything in it, as something to compare bit by bit."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return tuple((field.name, plain(getattr(value, field.name))) for field in fields(value))
    return value


def statistics() -> Statistics:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((4, 500)).astype(np.float32)
    scores[:, ::3] = -1e4
    scores[0, :3] = [np.nan, np.inf, -np.inf]
    tensors = {
        "scores": observe(scores, batch_axis=0),
        "/block/relu": observe(np.maximum(rng.standard_normal((2, 8, 9)), 0), batch_axis=0, channel_axis=1),
        "pairs": _pairs(rng.standard_normal((9, 4))),
        "unseen": empty(),
        "ranks": merge(observe(np.ones(3)), observe(np.ones((1, 3)))),
        "größe": observe(np.zeros((0,), np.float32)),
    }
    return Statistics(tensors=tensors, fingerprint="ab12", samples=4, synthetic=True)


def _pairs(values: np.ndarray) -> TensorStatistics:
    accumulator = Accumulator(channel_axis=-1, products=True)
    accumulator.update(values)
    return accumulator.result()


def test_round_trip(tmp_path: Path) -> None:
    before = statistics()
    save_statistics(before, tmp_path / "model.stats.npz")
    after = load_statistics(tmp_path / "model.stats.npz")
    assert plain(dict(after.tensors)) == plain(dict(before.tensors))
    assert (after.fingerprint, after.samples, after.synthetic) == ("ab12", 4, True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(width=32), max_size=30))
def test_round_trip_of_anything(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npz"
    before = Statistics(tensors={"t": observe(np.array(values, np.float64), channel_axis=0)})
    save_statistics(before, path)
    assert plain(dict(load_statistics(path).tensors)) == plain(dict(before.tensors))


def test_what_was_loaded_merges_and_calibrates_like_the_original(tmp_path: Path) -> None:
    before = statistics()
    save_statistics(before, tmp_path / "s.npz")
    after = load_statistics(tmp_path / "s.npz")
    more = observe(np.random.default_rng(1).standard_normal((3, 40)), batch_axis=0)
    kept, restored = (merge(each.tensors["scores"], more) for each in (before, after))
    assert plain(kept) == plain(restored)
    scheme = Scheme(dtype=QuantType.UINT8, symmetric=False)
    for name in ("minmax", "moving-average", "percentile", "entropy", "mse"):
        assert make_calibrator(name, {})(kept, scheme) == make_calibrator(name, {})(restored, scheme)


def test_equal_statistics_give_equal_bytes(tmp_path: Path) -> None:
    first = statistics()
    other = Statistics(
        tensors=dict(reversed(first.tensors.items())), fingerprint="ab12", samples=4, synthetic=True
    )  # the order of the tensors is no part of it
    save_statistics(first, tmp_path / "a.npz")
    save_statistics(other, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_cut_or_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    save_statistics(statistics(), path)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:size])
        with pytest.raises(CalibrationError, match=r"s\.npz"):
            load_statistics(path)
    before = plain(dict(statistics().tensors))
    for place in range(0, len(whole), max(1, len(whole) // 200)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            after = load_statistics(path)
        except CalibrationError:
            continue
        assert plain(dict(after.tensors)) == before  # a byte that says nothing, such as a date


def test_other_files_are_refused_with_their_name(tmp_path: Path) -> None:
    foreign, array, text = tmp_path / "foreign.npz", tmp_path / "array.npy", tmp_path / "text.npz"
    np.savez(foreign, x=np.ones(3))
    np.save(array, np.ones(3))
    text.write_text("no archive")
    for path in (foreign, array, text, tmp_path):
        with pytest.raises(CalibrationError, match=path.name):
            load_statistics(path)
    with pytest.raises(CalibrationError, match="there is no statistics file"):
        load_statistics(tmp_path / "missing.npz")


def test_pickles_are_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    header = np.array([Bomb()], object)
    np.savez(tmp_path / "s.npz", header=header, counts=np.zeros(0, np.int64), values=np.zeros(0))
    (tmp_path / "exploded").unlink(missing_ok=True)
    with pytest.raises(CalibrationError):
        load_statistics(tmp_path / "s.npz")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "is of version 99"),
        ({"format": "other"}, "holds no onnxq statistics"),
        ({"tensors": {"t": {}}}, "damaged"),
        ({"tensors": None}, "damaged"),
        ({"samples": "many"}, "damaged"),
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "s.npz"
    save_statistics(Statistics(), path)
    with np.load(path) as archive:
        members = dict(archive)
    header = json.loads(members["header"].tobytes()) | changes
    members["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **members)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(CalibrationError, match=message):
        load_statistics(path)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.npz"
    save_statistics(Statistics(fingerprint="old"), path)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(CalibrationError, match="No space left"):
        save_statistics(Statistics(fingerprint="new"), path)
    assert load_statistics(path).fingerprint == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot be written"):
        save_statistics(Statistics(), tmp_path / "missing" / "s.npz")
