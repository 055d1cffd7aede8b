"""Calibration in one process: what is observed, in what portions, and what happens when something goes wrong."""

import weakref

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.data import open_source, signature, synthetic
from onnxq.errors import CalibrationError, ModelError, RecipeError
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.text import model_from_text
from onnxq.runtime.taps import Taps
from onnxq.stages.calibrate import calibrate, findings, survey
from onnxq.stages.calibrate import checkpoint as checkpoint_module
from onnxq.types.statistics import Histogram
from tests.support.calibrating import SAMPLES, TENSORS, TEXT, RecordingProgress, batched, plain
from tests.support.quantizing import text


@pytest.fixture
def model():
    return ir.from_onnx_text(TEXT)


def source_of(model, data=None, **options):
    return open_source(batched(3) if data is None else data, signature(model), **options)


def without_sums(value):
    """Everything but the channels' float sums, which depend on the grouping in their last bits."""
    if isinstance(value, dict):
        return {key: without_sums(each) for key, each in value.items() if key != "sum_squares"}
    return [without_sums(each) for each in value] if isinstance(value, list) else value


def test_what_is_observed_is_what_the_tensors_held(model):
    seen = calibrate(model, TENSORS, source_of(model))
    a = SAMPLES * np.float32(0.3333)
    wanted = {
        "x": SAMPLES,
        "a": a,
        "b": np.maximum(a, 0),
        "c": np.maximum(a, 0) * 2,
        "y": SAMPLES - np.maximum(a, 0) * 2,
    }
    for name, values in wanted.items():
        found = seen.tensors[name]
        assert (found.minimum, found.maximum) == (values.min(), values.max())
        assert (found.count, found.samples, found.zeros) == (values.size, 24, (values == 0).sum())
        assert found.shapes == ((1, 1), (50, 50))
        np.testing.assert_allclose(found.mean_maximum, values.max(axis=1).astype(np.float64).mean(), rtol=1e-15)
        assert isinstance(found.histogram, Histogram)
        bins = np.floor(values.astype(np.float64) / 2.0**found.histogram.exponent).astype(int) - found.histogram.first
        np.testing.assert_array_equal(np.bincount(bins.ravel()), found.histogram.counts)
    assert (seen.samples, seen.synthetic, seen.fingerprint) == (24, False, fingerprint(model))


@pytest.mark.parametrize(
    "options",
    [
        {"threads": 1},
        {"threads": 3},
        {"memory": 1},
        {"memory": 500},
        {"memory": 5000, "threads": 2},
    ],
)
def test_threads_and_memory_change_nothing(model, options):
    wanted = plain(calibrate(model, TENSORS, source_of(model)))
    assert without_sums(plain(calibrate(model, TENSORS, source_of(model), **options))) == without_sums(wanted)


@pytest.mark.parametrize("size", [1, 2, 5, 24])
def test_batching_and_order_change_nothing(model, size):
    wanted = without_sums(plain(calibrate(model, TENSORS, source_of(model))))
    assert without_sums(plain(calibrate(model, TENSORS, source_of(model, batched(size))))) == wanted
    backwards = batched(size, SAMPLES[::-1])
    assert without_sums(plain(calibrate(model, TENSORS, source_of(model, backwards)))) == wanted


def test_variable_shapes(model):
    rng = np.random.default_rng(7)
    data = [{"x": rng.standard_normal((rows, length)).astype(np.float32)} for rows, length in ((3, 7), (5, 2), (8, 90))]
    seen = calibrate(model, ["x"], source_of(model, data)).tensors["x"]
    assert seen.shapes == ((1, 1), (2, 90))
    assert seen.samples == 16
    assert seen.count == 3 * 7 + 5 * 2 + 8 * 90


def test_waves_are_announced_and_counted(model):
    progress = RecordingProgress()
    seen = calibrate(model, TENSORS, source_of(model), memory=2 * 50 * 4, progress=progress)
    assert progress.notes == ["the tapped tensors do not fit into memory at once: 3 waves over the data"]
    assert progress.calls == [
        ("calibrate, wave 1 of 3", 24),
        ("finish", 24),
        ("calibrate, wave 2 of 3", 24),
        ("finish", 24),
        ("calibrate, wave 3 of 3", 24),
        ("finish", 24),
    ]
    assert tuple(seen.tensors) == TENSORS


def test_a_larger_batch_than_foreseen_starts_afresh(model):
    data = [{"x": np.ones((1, 10), np.float32)}, {"x": np.full((1, 1000), 2, np.float32)}]
    progress = RecordingProgress()
    seen = calibrate(model, TENSORS, source_of(model, data), memory=5 * 1000 * 4, progress=progress)
    # The square of its length would not fit, its true size does.
    assert progress.notes == ["the data, batch 2 is larger than those before it; calibration begins afresh for it"]
    assert (seen.tensors["x"].count, seen.samples) == (1010, 2)


def test_no_more_runs_are_alive_than_workers(model, monkeypatch):
    alive, most = weakref.WeakSet(), [0]
    run = Taps.run

    class Array(np.ndarray):
        pass

    def counted(self, feeds):
        found = {name: [array.view(Array) for array in each] for name, each in run(self, feeds).items()}
        for (array,) in found.values():
            alive.add(_Hashable(array))
        most[0] = max(most[0], len(alive))
        return found

    class _Hashable:
        """Lives as long as its array."""

        def __init__(self, array):
            array.token = self

    monkeypatch.setattr(Taps, "run", counted)
    calibrate(model, TENSORS, source_of(model, batched(1)), threads=2)
    assert 0 < most[0] <= 2 * len(TENSORS)


def test_the_same_tensor_twice_is_observed_once(model):
    assert calibrate(model, ["x", "x"], source_of(model)).tensors["x"].count == SAMPLES.size


def test_channels_are_kept_where_asked(model):
    seen = calibrate(model, ["x", "a"], source_of(model), channel_axes={"x": 1})
    assert seen.tensors["a"].channels is None
    np.testing.assert_array_equal(seen.tensors["x"].channels.maximum, SAMPLES.max(axis=0))


def test_subsampling_looks_at_every_nth_value(model):
    seen = calibrate(model, ["x", "a"], source_of(model), subsample=10, channel_axes={"a": 1})
    assert seen.tensors["x"].count == 24 * 5
    assert seen.tensors["x"].maximum == SAMPLES[:, ::10].max()
    assert seen.tensors["x"].shapes == ((1, 1), (50, 50))
    assert seen.tensors["a"].count == 24 * 50


def test_a_one_shot_source_is_enough_for_one_wave(model, monkeypatch):
    monkeypatch.setattr("onnxq.data.reader.RETAINED_BYTES", 1)
    generated = source_of(model, iter(batched(1)))
    assert calibrate(model, TENSORS, generated).samples == 24
    with pytest.raises(CalibrationError, match=r"read only once"):
        calibrate(model, TENSORS, source_of(model, iter(batched(1))), memory=200)


def test_synthetic_samples_are_marked(model):
    assert calibrate(model, ["x"], synthetic(signature(model))).synthetic


def test_made_up_inputs_on_which_the_model_does_not_run_are_told_from_real_ones():
    framed = model_from_text(
        text(
            "a = Slice (x, s, e) y = Reshape (a, n)",
            "float[T] x",
            "float[10,20] y",
            "int64[1] s = {0}, int64[1] e = {200}, int64[2] n = {10, 20}",
        )
    )
    with pytest.raises(CalibrationError, match=r"^made-up inputs: .* give real samples with --calibration$"):
        survey(framed, ["a", "y"], synthetic(signature(framed)))
    with pytest.raises(ModelError, match=r"check the input data$"):
        survey(framed, ["a", "y"], open_source([{"x": np.zeros(40, np.float32)}], signature(framed)))


def test_an_interrupted_calibration_goes_on_where_it_was(model, tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    wanted = plain(calibrate(model, TENSORS, source_of(model)))
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, TENSORS, source_of(model), checkpoint=path, progress=RecordingProgress(fail_at=9), threads=1)
    assert path.exists()
    ran = []
    run = Taps.run
    monkeypatch.setattr(Taps, "run", lambda self, feeds: ran.append(feeds["x"]) or run(self, feeds))
    progress = RecordingProgress()
    seen = calibrate(model, TENSORS, source_of(model), checkpoint=path, progress=progress, threads=1)
    assert progress.notes == ["9 samples were observed before; going on from there"]
    np.testing.assert_array_equal(np.concatenate(ran), SAMPLES[9:])
    assert plain(seen) == wanted
    assert list(tmp_path.iterdir()) == []


def test_waves_resume_too(model, tmp_path):
    path = tmp_path / "state.npz"
    wanted = plain(calibrate(model, TENSORS, source_of(model)))

    class SecondWave(RecordingProgress):
        def advance(self, n):
            super().advance(n)
            if len(self.calls) == 3 and self.done == 12:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model, TENSORS, source_of(model), checkpoint=path, memory=700, progress=SecondWave())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["state.npz", "state.npz.2"]
    progress = RecordingProgress()
    seen = calibrate(model, TENSORS, source_of(model), checkpoint=path, memory=700, progress=progress)
    assert progress.notes[1:] == [
        "24 samples were observed before; going on from there",
        "12 samples were observed before; going on from there",
    ]
    assert without_sums(plain(seen)) == without_sums(wanted)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_written_on_the_way(model, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "INTERVAL_SECONDS", 0.0)
    path, found = tmp_path / "state.npz", []

    class Look(RecordingProgress):
        def advance(self, n):
            super().advance(n)
            found.append(checkpoint_module.load_statistics(path).samples if path.exists() else None)

    calibrate(model, TENSORS, source_of(model), checkpoint=path, progress=Look())
    assert found == [None, None, 3, 6, 9, 12, 15, 18, 21]


def test_a_checkpoint_of_something_else_is_not_used(model, tmp_path):
    path = tmp_path / "state.npz"
    with pytest.raises(KeyboardInterrupt):
        calibrate(model, TENSORS, source_of(model), checkpoint=path, progress=RecordingProgress(fail_at=9))
    progress = RecordingProgress()
    seen = calibrate(model, ["x"], source_of(model), checkpoint=path, progress=progress)
    assert "of another model, data or options; calibration begins afresh" in progress.notes[0]
    assert seen.tensors["x"].count == SAMPLES.size
    path.write_text("rubbish")
    progress = RecordingProgress()
    calibrate(model, ["x"], source_of(model), checkpoint=path, progress=progress)
    assert "checkpoint not used, calibration begins afresh" in progress.notes[0]


def test_bad_data_halfway_names_the_batch_and_keeps_the_checkpoint(model, tmp_path):
    data = [*batched(3), {"x": np.array([[np.nan]], np.float32)}]
    progress = RecordingProgress()
    with pytest.raises(CalibrationError, match=r"the data, batch 9: input 'x' holds 1 NaN"):
        calibrate(
            model, TENSORS, source_of(model, data), checkpoint=tmp_path / "state.npz", progress=progress, threads=1
        )
    assert (tmp_path / "state.npz").exists()
    assert progress.calls[-1][0] == "finish"


def test_a_batch_that_the_model_cannot_take_is_named():
    model = ir.from_onnx_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        square (float[N,L] x) => (float[2,2] y)
        <int64[2] shape = {2, 2}>
        { y = Reshape (x, shape) }
    """)
    data = [{"x": np.ones((1, 4), np.float32)}, {"x": np.ones((1, 5), np.float32)}]
    with pytest.raises(
        CalibrationError, match=r"the data, batch 2: onnxruntime cannot run the model on x float32\[1, 5\]"
    ):
        calibrate(model, ["y"], source_of(model, data))


def test_nan_and_infinity_in_activations_are_counted_and_reported():
    model = ir.from_onnx_text("""
        <ir_version: 8, opset_import: ["" : 17]>
        odd (float[N,4] x) => (float[N,4] y)
        { r = Sqrt (x)  i = Reciprocal (x)  y = Add (r, i) }
    """)
    seen = calibrate(model, ["x", "r", "i"], source_of(model, [{"x": np.array([[-1, 0, 4, 9]], np.float32)}]))
    assert (seen.tensors["r"].nan, seen.tensors["r"].maximum, seen.tensors["i"].pos_inf) == (1, 3.0, 1)
    assert findings(seen) == (
        "the float model computes NaN in 'r' (1 of 4); they are left out of the ranges",
        "the float model computes infinite values in 'i' (1 of 4); they are left out of the ranges",
    )
    assert findings(calibrate(model, ["x"], source_of(model, [{"x": np.ones((1, 4), np.float32)}]))) == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": -1}, "threads must be at least 0, not -1"),
        ({"memory": 0}, "memory must be at least 1, not 0"),
        ({"subsample": 0}, "subsample must be at least 1, not 0"),
    ],
)
def test_options_out_of_range(model, options, message):
    with pytest.raises(RecipeError, match=message):
        calibrate(model, TENSORS, source_of(model), **options)


def test_no_samples_and_no_such_tensor(model):
    with pytest.raises(CalibrationError, match=r"holds no sample"):
        calibrate(model, TENSORS, source_of(model, []))
    with pytest.raises(CalibrationError, match=r"computes no tensor 'q'"):
        calibrate(model, ["q"], source_of(model))


def test_nothing_to_observe(model):
    assert calibrate(model, [], source_of(model)).tensors == {}


def test_a_batch_of_fixed_size_is_never_split():
    model = model_from_text(text("y = MatMul (x, w)", "float[4,32] x", "float[4,16] y", "float[32,16] w"))
    data = [{"x": np.ones((4, 32), np.float32)}]
    found = calibrate(model, ["y"], open_source(data, signature(model)), memory=1)
    assert found.samples == 4
