"""What every model of the zoo promises: a file that runs on its own batches, two disjoint sets, a float figure."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest

import models

FLOORS = {
    "digits": 0.985,
    "magika": 0.97,
    "minilm": 0.90,
    "ppocr-det": 0.93,
    "ppocr-rec": 0.90,
    "silero-vad": 0.97,
    "silero-vad-16k-op15": 0.97,
    "silero-vad-16k-sequence": 0.97,
    "silero-vad-half": 0.90,
    "silero-vad-op18-ifless": 0.97,
    "silero-vad-openvino-16k": 0.97,
}
"""What the float models reach, less the little that another processor or Pillow may change."""
CEILINGS = {"novel": 46.8, "smollm2": 34.2}
"""The same for figures that are better when lower; they take long, `test_zoo_decoders.py` looks at a part of them."""
SAMPLES = {"digits": "image", "magika": "bytes", "minilm": "input_ids", "ppocr-det": "x", "ppocr-rec": "x"}
SAMPLES |= {"novel": "input_ids", "smollm2": "input_ids"}
"""The input that holds the samples; for silero models it is `input`."""


def runner(path: str) -> Callable[[models.Feeds], models.Feeds]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # test processes run side by side
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def test_names_are_those_that_others_rely_on() -> None:
    assert models.names() == sorted(FLOORS | CEILINGS)


@pytest.mark.parametrize("name", sorted(FLOORS | CEILINGS))
def test_batches_fit_the_graph_and_the_two_sets_share_no_sample(name: str) -> None:
    zoo = models.load(name)
    assert zoo.name == name
    graph = onnx.load(zoo.path).graph
    run = runner(str(zoo.path))
    key = SAMPLES.get(name, "input")
    seen: list[set[bytes]] = []
    for stream in (zoo.calibration, zoo.evaluation):
        rows: set[bytes] = set()
        for number, feeds in enumerate(stream()):
            assert set(feeds) == {value.name for value in graph.input}
            rows |= {row.tobytes() for row in feeds[key]}
            if number < 2:
                assert all(np.isfinite(result).all() for result in run(feeds).values())
        seen.append(rows)
    calibration, evaluation = seen
    assert len(calibration) >= 8
    assert len(evaluation) >= 8
    assert not calibration & evaluation


@pytest.mark.parametrize("name", sorted(FLOORS | CEILINGS))
def test_each_call_starts_the_same_stream_anew(name: str) -> None:
    zoo = models.load(name)
    first, second = zoo.calibration(), zoo.calibration()
    one, other = next(first), next(second)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize("name", sorted(FLOORS))
def test_the_float_model_reaches_its_figure_and_one_answer_for_all_does_not(name: str) -> None:
    zoo = models.load(name)
    assert zoo.metric is not None
    assert zoo.metric.higher_is_better
    run = runner(str(zoo.path))
    shapes: list[dict[str, tuple[int, ...]]] = []

    def watched(feeds: models.Feeds) -> models.Feeds:
        outputs = run(feeds)
        shapes.append({key: value.shape for key, value in outputs.items()})
        return outputs

    assert zoo.metric.compute(watched) >= FLOORS[name]

    # The metric walks the same samples again: the recorded shapes spare running the model a second time.
    again = iter(shapes)

    def same(feeds: models.Feeds) -> models.Feeds:
        return {key: np.full(shape, 0.25, dtype=np.float32) for key, shape in next(again).items()}

    assert zoo.metric.compute(same) < FLOORS[name] - 0.1


@pytest.mark.parametrize("name", ["ppocr-rec", "ppocr-det", "minilm", "silero-vad"])
def test_models_with_dynamic_shapes_get_batches_of_several_shapes(name: str) -> None:
    key = SAMPLES.get(name, "input")
    assert len({feeds[key].shape for feeds in models.load(name).calibration()}) > 1


def test_both_branches_on_the_sample_rate_are_fed() -> None:
    assert {int(feeds["sr"]) for feeds in models.load("silero-vad").calibration()} == {8000, 16000}


def test_the_states_of_the_voice_detector_move() -> None:
    states = [feeds["state"] for feeds in models.load("silero-vad-half").calibration()]
    assert not states[0].any()
    assert all(state.any() for state in states[1:])


def test_digits_keeps_batch_normalization_and_its_size() -> None:
    zoo = models.load("digits")
    kinds = {node.op_type for node in onnx.load(zoo.path).graph.node}
    assert {"Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Gemm"} <= kinds
    assert zoo.path.stat().st_size < 1_500_000
    with np.load(zoo.path.with_name("calibration.npz")) as data:
        assert {key: data[key].shape for key in data} == {"image": (100, 1, 28, 28)}
