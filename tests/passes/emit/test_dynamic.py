"""The dynamic emitter: products in every scheme against float, the reference evaluator, and exact integers."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.errors import RecipeError
from onnxq.runtime.session import run_model
from onnxq.types.plan import Action
from onnxq.types.scheme import QuantType
from tests.support.integers import accumulated, exact_here, exactly
from tests.support.operators import WEIGHTS
from tests.support.quantizing import quantize_text, text

ROW = "float[5,8] x"


GRANULARITIES = ("per-tensor", "per-channel")
UINT8, INT8 = {"dtype": "uint8", "symmetric": False}, {"dtype": "int8", "symmetric": True}
SCHEMES = {
    "symmetric": INT8,
    "asymmetric": {"dtype": "int8", "symmetric": False},
    "unsigned": UINT8,
    "unsigned-symmetric": {"dtype": "uint8", "symmetric": True},
}


def dynamic(source, feeds=None, **options):
    return quantize_text(source, feeds, format="dynamic", placement="everywhere", **options)


def reference(done):
    return ReferenceEvaluator(ir.to_proto(done.model)).run(None, dict(done.feeds))


def sqnr(expected, actual):
    noise = np.sum(np.square(np.float64(expected) - actual))
    return 10 * np.log10(np.sum(np.square(np.float64(expected))) / noise) if noise else np.inf


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("weights", SCHEMES)
@pytest.mark.parametrize("name", ["matmul", "matmul-batched", "gemm trans11", "gather", "conv-2d", "lstm-forward"])
def test_weights_of_every_scheme(name, weights, granularity):
    operator = WEIGHTS[name]
    schemes = {"weights": {**SCHEMES[weights], "granularity": granularity}}
    if name in ("conv-2d", "lstm-forward") and granularity == "per-channel" and weights != "symmetric":
        said = (
            "no kernel for per-channel weights; take per-tensor" if "unsigned" in weights else "set `symmetric: true`"
        )
        with pytest.raises(RecipeError, match=rf"_0'.* {said}"):
            dynamic(operator.text(), operator.feeds, **schemes)
        return
    done = dynamic(operator.text(), operator.feeds, **schemes)
    (decision,) = done.plan.decisions
    assert decision.kernel == operator.dynamic
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("granularity", ["per-tensor", "per-token"])
@pytest.mark.parametrize("activations", SCHEMES)
@pytest.mark.parametrize("weights", ["symmetric", "unsigned"])
@pytest.mark.parametrize("name", ["matmul-3d", "matmul-batched", "gemm trans11"])
def test_activations_of_every_scheme(name, weights, activations, granularity):
    schemes = {"activations": {**SCHEMES[activations], "granularity": granularity}, "weights": SCHEMES[weights]}
    if granularity == "per-tensor" and weights == "unsigned" and "unsigned" not in activations:
        with pytest.raises(RecipeError, match=r"_0'.* no kernel for uint8 weights; take int8"):
            dynamic(WEIGHTS[name].text(), **schemes)
        return
    done = dynamic(WEIGHTS[name].text(), **schemes)
    (decision,) = done.plan.decisions
    assert decision.kernel == "MatMulInteger"
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30
    for expected, actual in zip(reference(done), run_model(done.model, dict(done.feeds)).values(), strict=True):
        assert sqnr(expected, actual) > 90


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
@pytest.mark.parametrize("granularity", ["per-tensor", "per-token"])
def test_every_opset_from_11(opset, granularity):
    done = dynamic(
        text("y = MatMul (x, w)", ROW, "float[5,6] y", "float[8,6] w", opset=opset),
        activations={"granularity": granularity},
    )
    assert done.sqnr(optimize=True) > 30


def test_before_opset_11_nothing_can_be_written_and_the_reason_says_so():
    done = dynamic(text("y = MatMul (x, w)", ROW, "float[5,6] y", "float[8,6] w", opset=10))
    (decision,) = done.plan.decisions
    assert decision.action is Action.KEEP
    assert "opset 11" in decision.reason.text


@pytest.mark.parametrize("name", ["matmul", "gemm trans11", "conv-2d"])
@pytest.mark.parametrize("activations", SCHEMES)
def test_zeros_stay_zeros(name, activations):
    """Their scale would be 0, and 0 / 0 is not a number."""
    done = dynamic(WEIGHTS[name].text(), activations=SCHEMES[activations])
    feeds = {key: np.zeros_like(array) for key, array in done.feeds.items()}
    for optimize in (False, True):
        expected = run_model(done.float_model, feeds)["y"]
        np.testing.assert_allclose(run_model(done.model, feeds, optimize=optimize)["y"], expected, atol=1e-6)


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni"])
@pytest.mark.parametrize("weights", SCHEMES)
@pytest.mark.parametrize("granularity", ["per-tensor", "per-token"])
def test_the_accumulated_integers(granularity, weights, target):
    """To the last unit, zero points taken off: exact where planned for this processor, or for one without VNNI."""
    done = dynamic(
        text("y = MatMul (x, w)", "float[7,300] x", "float[7,20] y", "float[300,20] w"),
        activations={"dtype": "uint8", "symmetric": False, "granularity": granularity},
        weights=SCHEMES[weights],
        target=target,
    )
    values = {value.name: value for node in done.model.graph for value in node.outputs}
    shown = [name for name in values if name.rpartition("/")[2] in ("quantized", "zero_point", "shift", "accumulated")]
    total = "MatMul_0/corrected" if granularity == "per-token" else "MatMul_0/accumulated"
    proto = ir.to_proto(done.model)
    for name in {*shown, total}:
        proto.graph.output.append(onnx.ValueInfoProto(name=name))
    found = run_model(proto, dict(done.feeds))
    stored = {name: value.const_value.numpy() for name, value in done.model.graph.initializers.items()}
    x, x_zero = found["x/quantized"], found["x/zero_point" if granularity == "per-tensor" else "x/shift"]
    w, w_zero = stored["w/quantized"], stored.get("w/zero_point", np.int8(0))
    np.testing.assert_array_equal(found[total], accumulated(x, w, x_zero, w_zero))
    if exact_here(target):
        np.testing.assert_array_equal(found[total], exactly(x, w, x_zero, w_zero))


def test_one_quantization_serves_all_readers_of_a_tensor():
    done = dynamic(
        text(
            "q = MatMul (x, a) k = MatMul (x, b) y = Gemm (x, c)",
            ROW,
            "float[5,6] q, float[5,6] k, float[5,6] y",
            "float[8,6] a, float[8,6] b, float[8,6] c",
        )
    )
    assert [node.op_type for node in done.model.graph].count("DynamicQuantizeLinear") == 1
    assert done.kernels() == {"MatMulIntegerToFloat": 3, "DynamicQuantizeLinear": 1}
    assert done.sqnr(optimize=True) > 30


def test_one_reader_is_one_kernel_with_its_bias():
    done = dynamic(WEIGHTS["gemm"].text())
    assert done.kernels() == {"DynamicQuantizeMatMul": 1}


def test_readers_that_want_other_codes_get_their_own():
    rules = [{"match": {"name": "MatMul_1"}, "activations": {"dtype": "int8", "symmetric": True}}]
    source = text(
        "a = MatMul (x, w) b = MatMul (x, v) c = MatMul (x, u)",
        ROW,
        "float[5,6] a, float[5,6] b, float[5,6] c",
        "float[8,6] w, float[8,6] v, float[8,6] u",
    )
    done = dynamic(source, rules=rules)
    counts = [node.op_type for node in done.model.graph]
    assert counts.count("DynamicQuantizeLinear") == 1
    assert counts.count("QuantizeLinear") == 1
    assert done.sqnr(optimize=True) > 30


def test_outputs_that_are_read_inside_too_keep_their_names():
    done = dynamic(
        text("a = MatMul (x, w) y = MatMul (a, v)", ROW, "float[5,6] a, float[5,4] y", "float[8,6] w, float[6,4] v")
    )
    assert [value.name for value in done.model.graph.outputs] == ["a", "y"]
    assert done.sqnr(optimize=True) > 30


def test_a_computed_bias_is_added_as_it_is():
    done = dynamic(
        text("c = Neg (k) y = Gemm <beta = 0.5> (x, w, c)", f"{ROW}, float[6] k", "float[5,6] y", "float[8,6] w")
    )
    assert done.sqnr(optimize=True) > 30


def test_outputs_and_inputs_that_an_lstm_leaves_out():
    done = dynamic(
        text(
            ", h = LSTM <hidden_size = 8> (x, w, r, , n, h0)",
            "float[5,2,16] x, int32[2] n, float[1,2,8] h0",
            "float[1,2,8] h",
            "float[1,32,16] w, float[1,32,8] r",
        ),
        {
            "x": np.random.default_rng(0).standard_normal((5, 2, 16)).astype(np.float32),
            "n": np.array([5, 3], np.int32),
            "h0": np.ones((1, 2, 8), np.float32),
        },
    )
    assert done.plan.decisions[0].action is Action.QUANTIZE
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize(("op", "gates"), [("GRU", 3), ("RNN", 1)])
def test_recurrent_operators_without_a_kernel_keep_their_weights_on_codes(op, gates):
    done = dynamic(
        text(
            f"y = {op} <hidden_size = 32> (x, w, r)",
            "float[9,40,24] x",
            "float[9,1,40,32] y",
            f"float[1,{gates * 32},24] w, float[1,{gates * 32},32] r",
        )
    )
    (decision,) = done.plan.decisions
    assert (decision.format, decision.kernel) == ("weight-only", "DequantizeLinear")
    assert {plan.scheme.dtype for plan in done.plan.tensors.values()} == {QuantType.INT8}
    assert done.sqnr(optimize=True) > 30


def test_a_recurrent_operator_of_few_steps_is_not_made_slower_by_unpacking_its_weights():
    steps = text(
        "y = GRU <hidden_size = 64> (x, w, r)",
        "float[{steps},1,64] x",
        "float[{steps},1,1,64] y",
        "float[1,192,64] w, float[1,192,64] r",
    )
    (few,), (many,) = (quantize_text(steps.replace("{steps}", count)).plan.decisions for count in ("1", "500"))
    assert few.reason.code == "cheaper-in-float"
    assert few.reason.text.startswith("unpacking its weights takes about")
    assert "placement 'everywhere' quantizes it all the same" in few.reason.text
    assert (many.format, many.kernel) == ("weight-only", "DequantizeLinear")


def test_an_lstm_is_unpacked_where_only_operators_of_the_standard_may_be_used():
    done = dynamic(WEIGHTS["lstm-forward"].text(), portable=True)
    (decision,) = done.plan.decisions
    assert (decision.format, decision.kernel) == ("weight-only", "DequantizeLinear")
    assert {node.domain for node in done.model.graph} == {""}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_an_lstm_is_quantized_at_run_time_in_formats_that_have_no_kernel_for_it(form):
    done = quantize_text(WEIGHTS["lstm-forward"].text(), WEIGHTS["lstm-forward"].feeds, format=form)
    (decision,) = done.plan.decisions
    assert (decision.format, decision.kernel) == ("dynamic", "DynamicQuantizeLSTM")
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("name", ["matmul", "gemm trans11", "conv-2d", "gather"])
def test_all_else_is_written_in_operators_of_the_standard(name):
    done = dynamic(WEIGHTS[name].text(), WEIGHTS[name].feeds, portable=True)
    assert done.plan.decisions[0].action is Action.QUANTIZE
    assert {node.domain for node in done.model.graph} == {""}


def test_a_convolution_is_slower_on_codes_and_stays_unless_wanted_everywhere():
    done = quantize_text(WEIGHTS["conv-2d"].text(), format="dynamic")
    (decision,) = done.plan.decisions
    assert decision.reason.code == "cheaper-in-float"
    assert "everywhere" in decision.reason.text


@pytest.mark.parametrize(
    ("shape", "columns", "action"),
    [("[512,384]", 384, Action.QUANTIZE), ("[512,384]", 2, Action.KEEP), ("[1,16]", 16, Action.KEEP)],
)
def test_products_are_weighed_against_quantizing_what_they_read(shape, columns, action):
    k = shape.strip("[]").split(",")[1]
    done = quantize_text(
        text("y = MatMul (x, w)", f"float{shape} x", "float[?,?] y", f"float[{k},{columns}] w"), format="dynamic"
    )
    (decision,) = done.plan.decisions
    assert decision.action is action
    assert decision.reason.code == ("integer-kernel" if action is Action.QUANTIZE else "cheaper-in-float")


def test_products_that_read_the_same_tensor_share_its_cost():
    body = " ".join(f"y{index} = MatMul (x, w{index})" for index in range(8))
    outputs = ", ".join(f"float[512,8] y{index}" for index in range(8))
    weights = ", ".join(f"float[384,8] w{index}" for index in range(8))
    together = quantize_text(text(body, "float[512,384] x", outputs, weights), format="dynamic")
    alone = quantize_text(
        text("y = MatMul (x, w)", "float[512,384] x", "float[512,8] y", "float[384,8] w"), format="dynamic"
    )
    assert {entry.action for entry in together.plan.decisions} == {Action.QUANTIZE}
    assert {entry.action for entry in alone.plan.decisions} == {Action.KEEP}


def test_small_tables_stay_in_float():
    table = text("y = Gather (w, i)", "int64[3] i", "float[3,16] y", "float[16,16] w")
    (decision,) = dynamic(table, {"i": np.array([0, 15, -3])}).plan.decisions
    assert decision.action is Action.KEEP
    assert "4096" in decision.reason.text


def test_scales_along_the_summed_axis_are_refused():
    granularity = {"kind": "per-channel", "axis": 0}
    with pytest.raises(RecipeError, match=r"'MatMul_0': .* scales along axis 0 .* take them along axis 1"):
        dynamic(WEIGHTS["matmul"].text(), weights={"granularity": granularity})


def test_beside_qdq_in_one_model():
    rules = [{"match": {"name": "MatMul_1"}, "format": "dynamic"}]
    source = text(
        "a = MatMul (x, w) y = MatMul (a, v) z = MatMul (x, u)",
        ROW,
        "float[5,6] y, float[5,4] z",
        "float[8,6] w, float[6,6] v, float[8,4] u",
    )
    done = quantize_text(source, rules=rules, placement="everywhere")
    assert [entry.format for entry in done.plan.decisions] == ["qdq", "dynamic", "qdq"]
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


def test_without_any_data_from_file_to_report(tmp_path):
    source = tmp_path / "model.onnx"
    model = quantize_text(
        text(
            "a = MatMul (x, w) y = MatMul (a, v)",
            "float[N,384] x",
            "float[N,64] y",
            "float[384,384] w, float[384,64] v",
        ),
        {"x": np.ones((2, 384), np.float32)},
    ).float_model
    ir.save(model, source)
    report = onnxq.quantize(source, tmp_path / "out.onnx", format="dynamic", guard=False)
    assert {entry.action for entry in report.plan.decisions} == {Action.QUANTIZE}
    assert report.verification.kernels.unfused == {}
    assert report.verification.outputs[0].sqnr_served > 30
    assert [entry.tensor for entry in report.verification.tensors] == ["a", "y"]
    assert report.quantized_bytes < 0.3 * report.float_bytes
