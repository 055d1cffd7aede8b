import itertools
import math

import numpy as np
import onnx
import onnx.reference
import onnx_ir as ir
import onnxq
import pytest
from onnxq.data import open_source, signature
from onnxq.errors import ModelError, RecipeError
from onnxq.evaluate import comparison
from onnxq.evaluate.outputs import served_differs
from onnxq.evaluate.verify import verify
from onnxq.graph.text import model_from_text
from onnxq.runtime.timing import RaceTimes
from onnxq.types.plan import Action, Decision, Plan, Reason, Role, TensorPlan
from onnxq.types.report import OutputError
from onnxq.types.scheme import PerChannel, QuantType, Scheme
from tests.support.calibrating import RecordingProgress
from tests.support.quantizing import text

FLOAT = """
<ir_version: 9, opset_import: ["" : 19]>
net (float[N,4] x) => (float[N,3] y)
<float[4,3] w = {1, -2, 0.5, 0.25, 1, -1, 2, 0.125, -0.5, -1, 0.75, 1.5}>
{ [mm] h = MatMul (x, w)  [relu] r = Relu (h)  [tanh] y = Tanh (r) }
"""
QUANTIZED = """
<ir_version: 9, opset_import: ["" : 19]>
net (float[N,4] x) => (float[N,3] y)
<float[4,3] w = {1, -2, 0.5, 0.25, 1, -1, 2, 0.125, -0.5, -1, 0.75, 1.5},
 float sx = {0.02}, uint8 zx = {128}, float sr = {0.05}, uint8 zr = {0}>
{
  xq = QuantizeLinear (x, sx, zx)  xd = DequantizeLinear (xq, sx, zx)
  [mm] h = MatMul (xd, w)
  [relu] r = Relu (h)
  rq = QuantizeLinear (r, sr, zr)  rd = DequantizeLinear (rq, sr, zr)
  [tanh] y = Tanh (rd)
}
"""
ACTIVATION = Scheme(dtype=QuantType.UINT8, symmetric=False)
WEIGHT = Scheme(dtype=QuantType.INT8, symmetric=True, granularity=PerChannel(axis=1))


def decision(node, op, kernel="QLinearMatMul", outputs=None, action=Action.QUANTIZE):
    reason = Reason(code="test", text="because")
    return Decision(node=node, op=op, action=action, reason=reason, outputs=outputs or {}, kernel=kernel)


def make_plan(*decisions, tensors=("r",)):
    planned = {name: TensorPlan(name=name, tensor=name, role=Role.ACTIVATION, scheme=ACTIVATION) for name in tensors}
    return Plan(format="qdq", target="cpu", fingerprint="", decisions=decisions, tensors=planned)


PLAN = make_plan(
    decision("mm", "MatMul"),
    decision("relu", "Relu", kernel=None, outputs={0: "r"}),
    decision("tanh", "Tanh", kernel=None, action=Action.KEEP),
)


def data(rows=24, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, (rows, 4)).astype(np.float32)


def source(model, *arrays, labels=None, **options):
    batches = [{"x": array} for array in arrays]
    if labels is not None:
        batches = [batch | {"labels": entry} for batch, entry in zip(batches, labels, strict=True)]
    return open_source(batches, signature(model), **options)


@pytest.fixture
def models():
    return ir.from_onnx_text(FLOAT), ir.from_onnx_text(QUANTIZED)


def run(models, *arrays, plan=PLAN, labels=None, options=None, **arguments):
    return verify(
        *models, source(models[0], *arrays, labels=labels, **(options or {})), plan, latency_budget=0, **arguments
    )


def evaluate(text, x, outputs=None):
    """The reference evaluator of ONNX, with any value of the graph as output."""
    proto = onnx.parser.parse_model(text)
    if outputs:
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs)
    return onnx.reference.ReferenceEvaluator(proto).run(None, {"x": x})


def decibel(reference, actual):
    a, b = np.asarray(reference, np.float64), np.asarray(actual, np.float64)
    return 10 * np.log10(np.sum(a**2) / np.sum((a - b) ** 2))


def test_output_error_equals_that_of_the_reference_evaluator(models):
    x = data()
    (expected,), (actual,) = evaluate(FLOAT, x), evaluate(QUANTIZED, x)
    output = run(models, x).outputs[0]
    assert output.name == "y"
    assert output.sqnr_plain == pytest.approx(decibel(expected, actual), abs=1e-3)
    assert output.sqnr_served == pytest.approx(decibel(expected, actual), abs=0.5)
    assert output.max_abs_served == pytest.approx(np.max(np.abs(expected - actual)), abs=1e-3)
    agree = np.mean(np.argmax(expected, -1) == np.argmax(actual, -1))
    assert output.agreement_served == pytest.approx(agree)


def test_batches_of_any_size_give_the_same_error(models):
    x = data(24)
    whole = run(models, x)
    parts = run(models, x[:1], x[1:9], x[9:])
    assert parts.outputs[0].sqnr_plain == pytest.approx(whole.outputs[0].sqnr_plain, rel=1e-9)
    assert parts.outputs[0].agreement_served == whole.outputs[0].agreement_served
    assert parts.samples == whole.samples == 24


def test_no_more_samples_than_asked_for(models):
    x = data(24)
    limited = run(models, x, max_samples=10)
    assert limited.samples == 10
    assert limited.outputs[0].sqnr_plain == pytest.approx(run(models, x[:10]).outputs[0].sqnr_plain, rel=1e-9)


def test_identical_models_are_exact(models):
    output = run((models[0], models[0]), data()).outputs[0]
    assert output.sqnr_plain == math.inf
    assert (output.max_abs_served, output.agreement_served) == (0.0, 1.0)


def test_error_of_each_quantized_node(models):
    x = data(4)
    names = ["h", "r"]
    expected = dict(zip(names, evaluate(FLOAT, x, names), strict=True))
    # In the quantized model r is its dequantized value; h has no codes and is itself.
    actual = dict(zip(names, evaluate(QUANTIZED, x, ["h", "rd"]), strict=True))
    tensors = {entry.node: entry for entry in run(models, x).tensors}
    assert set(tensors) == {"mm", "relu"}
    assert tensors["mm"].tensor == "h"
    assert tensors["mm"].sqnr == pytest.approx(decibel(expected["h"], actual["h"]), abs=1e-3)
    assert tensors["relu"].sqnr == pytest.approx(decibel(expected["r"], actual["r"]), abs=1e-3)


def test_tensors_are_compared_in_groups_that_fit_in_memory(models, monkeypatch):
    whole = run(models, data()).tensors
    monkeypatch.setattr(comparison, "_FIRST_GROUP", 1)
    monkeypatch.setattr(comparison, "_MEMORY", 1)
    tapped = []
    taps = comparison.Taps
    monkeypatch.setattr(comparison, "Taps", lambda m, names, **kw: tapped.append(names) or taps(m, names, **kw))
    assert run(models, data()).tensors == whole
    assert [len(names) for names in tapped] == [1, 1, 1, 1]


def test_tensors_that_the_original_lacks_are_looked_up_in_the_prepared_model(models):
    renamed = ir.from_onnx_text(FLOAT.replace(" r ", " other ").replace("(r)", "(other)"))
    assert [entry.node for entry in run((renamed, models[1]), data()).tensors] == ["mm"]
    found = run((renamed, models[1]), data(), reference=models[0]).tensors
    assert [entry.node for entry in found] == ["mm", "relu"]


def test_a_graph_output_that_is_quantized_counts_under_its_own_name():
    quantized = QUANTIZED.replace("y = Tanh (rd)", "t = Tanh (rd)").replace(
        "[tanh]", "tq = QuantizeLinear (t, sx, zx) y = DequantizeLinear (tq, sx, zx) [tanh]"
    )
    proto = onnx.parser.parse_model(quantized)
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes[:-3], nodes[-1], *nodes[-3:-1]])  # the text lists Tanh last
    plan = make_plan(decision("tanh", "Tanh", outputs={0: "y"}), tensors=("y",))
    verification = run((ir.from_onnx_text(FLOAT), ir.from_proto(proto)), data(4), plan=plan)
    assert verification.tensors[0].tensor == "y"
    assert verification.tensors[0].sqnr == pytest.approx(verification.outputs[0].sqnr_plain, abs=1e-6)


def test_what_was_planned_for_integers_and_runs_in_float_is_told(models):
    verification = run(models, data())
    kernels = verification.kernels
    assert kernels.unfused == {"mm": "MatMul in float"}  # its weight was not quantized, so nothing fuses
    assert any("1 of the nodes planned" in text and "'mm'" in text for text in verification.warnings)
    assert kernels.float_ops == {"MatMul": 1, "Relu": 1, "Tanh": 1}
    assert kernels.quantized_ops["MatMul"] == 1
    assert kernels.quantized_ops["QuantizeLinear"] == 2


def test_without_data_the_kernels_are_read_all_the_same(models):
    verification = verify(*models, None, PLAN)
    assert (verification.outputs, verification.latency, verification.metric) == ((), None, None)
    assert verification.kernels.unfused


def test_accuracy_where_the_data_has_labels(models):
    x = data(40)
    (expected,), (actual,) = evaluate(FLOAT, x), evaluate(QUANTIZED, x)
    labels = np.argmax(expected, -1)
    labels[:4] = (labels[:4] + 1) % 3
    metric = run(models, x[:25], x[25:], labels=[labels[:25], labels[25:]], max_samples=5).metric
    assert metric.name == "accuracy"
    assert metric.float_value == pytest.approx(0.9)
    assert metric.quantized_value == pytest.approx(np.mean(np.argmax(actual, -1) == labels))


def test_no_labels_no_accuracy(models):
    verification = run(models, data())
    assert verification.metric is None
    assert not any("accuracy" in text for text in verification.warnings)


@pytest.mark.parametrize("labels", [np.zeros((24, 3), np.int64), np.zeros(24, np.float32), np.array(["a"] * 24)])
def test_labels_that_are_no_classes_are_said_to_be_so(models, labels):
    verification = run(models, data(24), labels=[labels])
    assert verification.metric is None
    assert "do not fit the classes in output 'y'" in verification.warnings[0]


def test_a_metric_of_the_users_own_scores_both_models(models):
    x = data(8)

    def mean_output(run):
        return float(np.mean(run({"x": x})["y"]))

    metric = run(models, x, metric=mean_output).metric
    assert metric.name == "mean_output"
    assert metric.float_value == pytest.approx(np.mean(evaluate(FLOAT, x)[0]), rel=1e-5)
    assert metric.quantized_value == pytest.approx(np.mean(evaluate(QUANTIZED, x)[0]), rel=0.01)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (math.nan, "returned nan on the float model"),
        (math.inf, "returned inf"),
        (None, "returned None"),
        ("good", "returned 'good'"),
        (np.ones(3), "returned array"),
    ],
)
def test_a_metric_returns_a_finite_number(models, result, message):
    with pytest.raises(RecipeError, match=message):
        run(models, data(), metric=lambda run: result)


def test_a_metric_that_fails_is_named(models):
    def wrong(run):
        return run({"X": data()})["y"].mean()

    with pytest.raises(RecipeError, match=r"metric 'wrong' failed on the float model: ModelError.*x"):
        run(models, data(), metric=wrong)


def test_nan_in_the_quantized_model_only_is_warned_of():
    broken = QUANTIZED.replace("y = Tanh (rd)", "l = Log (rd)  y = Sqrt (l)").replace("[tanh]", "")
    verification = run((ir.from_onnx_text(FLOAT), ir.from_onnx_text(broken)), data())
    assert verification.outputs[0].sqnr_served == -math.inf
    assert any("NaN" in text and "'y'" in text for text in verification.warnings)


def test_class_numbers_and_strings_are_compared_by_equality(models):
    tail = "label = ArgMax <axis = 1, keepdims = 0> (y)  text = Cast <to = 8> (label)"
    head = "=> (float[N,3] y, int64[N] label, string[N] text)"
    pair = [
        ir.from_onnx_text(
            text.replace("=> (float[N,3] y)", head)
            .replace("Tanh (r)", f"Tanh (r) {tail}")
            .replace("Tanh (rd)", f"Tanh (rd) {tail}")
        )
        for text in (FLOAT, QUANTIZED)
    ]
    y, label, text = run(pair, data(50)).outputs
    (expected,), (actual,) = evaluate(FLOAT, data(50)), evaluate(QUANTIZED, data(50))
    share = np.mean(np.argmax(expected, -1) == np.argmax(actual, -1))
    assert y.agreement_served == label.agreement_served == text.agreement_served == pytest.approx(share)
    assert math.isnan(text.sqnr_plain)


def test_latency_is_that_of_one_sample_where_the_data_leaves_the_size_open(models, tmp_path):
    np.savez(tmp_path / "x.npz", x=data(24))
    opened = open_source(tmp_path / "x.npz", signature(models[0]))
    latency = verify(*models, opened, PLAN, latency_budget=0, threads=2).latency
    assert (latency.batch, latency.threads) == (1, 2)
    assert latency.runs >= 5
    assert min(latency.float_ms, latency.quantized_ms, latency.speedup) > 0
    asked = open_source(tmp_path / "x.npz", signature(models[0]), batch_size=6)
    assert verify(*models, asked, PLAN, latency_budget=0).latency.batch == 6


@pytest.mark.parametrize("settled", [True, False])
def test_an_uncertain_latency_is_said_to_be_so(models, monkeypatch, settled):
    monkeypatch.setattr(RaceTimes, "settled", settled)
    assert any("busy" in text for text in run(models, data()).warnings) is not settled


def test_a_quantized_model_that_cannot_run_is_a_model_error(models):
    bad = ir.from_onnx_text(QUANTIZED.replace("Tanh", "Tanhh"))
    with pytest.raises(ModelError, match="Tanhh"):
        run((models[0], bad), data())


def test_every_start_of_progress_is_finished(models):
    class Log:
        def __init__(self):
            self.events = []

        def start(self, total, description):
            self.events.append("start")

        def advance(self, n):
            assert self.events[-1] == "start"

        def finish(self):
            self.events.append("finish")

    log = Log()
    run(models, data(), progress=log)
    assert log.events == ["start", "finish"] * (len(log.events) // 2)
    with pytest.raises(RecipeError):
        run(models, data(), progress=log, metric=lambda run: None)
    assert log.events[-1] == "finish"


def output(plain, served):
    return (OutputError(name="y", sqnr_plain=plain, sqnr_served=served, max_abs_served=0.1),)


def test_a_loss_that_the_graph_does_not_show_is_told_with_its_cause():
    (warning,) = served_differs(output(36.3, 20.9), lambda: "a cause")
    assert warning == "output 'y': 20.9 dB as served, 36.3 dB with the optimizer off; a cause"


def test_of_a_gain_no_cause_is_looked_for():
    def never() -> str:
        raise AssertionError

    assert "better than the graph promises" in served_differs(output(20.9, 36.3), never)[0]


@pytest.mark.parametrize(
    ("plain", "served", "count"),
    [
        (36.3, 35.4, 0),
        (36.3, 37.4, 1),
        (95.0, 80.0, 0),  # float32 rounding
        (math.inf, math.inf, 0),
        (math.inf, 110.0, 0),
        (-math.inf, -math.inf, 0),
        (30.0, -math.inf, 1),
        (math.nan, math.nan, 0),
    ],
)
def test_only_notable_differences_are_warned_of(plain, served, count):
    assert len(served_differs(output(plain, served), lambda: "why")) == count


def score_of_models(run) -> float:
    return float(np.sum(run({"x": np.ones((2, 8), np.float32)})["y"]))


@pytest.mark.parametrize(
    ("more", "options", "expected"),
    [
        ({}, {}, []),
        ({"labels": np.int64([0, 1])}, {}, [("score", 2, 2)]),
        ({}, {"metric": f"{__name__}:score_of_models"}, [("score", 2, 2)]),
    ],
    ids=["nothing to score", "labels", "a metric"],
)
def test_scoring_is_a_stage_only_where_there_is_something_to_score_and_comes_to_its_end(more, options, expected):
    head, body = '<ir_version: 9, opset_import: ["" : 17]>', "g (float[N,8] x) => (float[N,8] y) <float[8,8] w>"
    text = f"{head} {body} {{ y = MatMul (x, w) }}"
    progress = RecordingProgress()
    data = [{"x": np.random.default_rng(0).standard_normal((2, 8)).astype(np.float32), **more}]
    onnxq.quantize(model_from_text(text), calibration=data, evaluation=data, guard=False, progress=progress, **options)
    starts_and_ends = itertools.pairwise(progress.calls)
    assert [(*start, end[1]) for start, end in starts_and_ends if start[0] == "score"] == expected


def test_a_model_that_meets_a_fault_is_told_of_with_its_node():
    """Scales that are computed: with the optimizer off it is as wrong, so that nothing else points at it."""
    codes = np.random.default_rng(0).integers(0, 256, (4, 2, 32))
    inputs = "float[2,64] x, float[4,2] e"
    scale = f"float[4,2] o = {{{', '.join(['0.01'] * 8)}}}"
    weight = f"float[64,4] w = {{{', '.join(str(0.01 * (code - 128)) for code in codes.reshape(4, 64).T.ravel())}}}"
    held = f"uint8[4,2,32] q = {{{', '.join(map(str, codes.ravel()))}}}, {scale}"
    attributes = "K = 64, N = 4, bits = 8, block_size = 32, accuracy_level = 4"
    product = f"s = Add (e, o) y = com.microsoft.MatMulNBits <{attributes}> (x, q, s)"
    reference = text("n = MatMul (x, w) m = ReduceSum (e) y = Add (n, m)", inputs, "float[2,4] y", weight)
    data = [{"x": np.ones((2, 64), np.float32), "e": np.zeros((4, 2), np.float32)}]
    made = model_from_text(text(product, inputs, "float[2,4] y", held))
    warnings = onnxq.verify(model_from_text(reference), made, evaluation=data).warnings
    assert any("'nbits-computed'" in warning and "'MatMulNBits_1'" in warning for warning in warnings)
