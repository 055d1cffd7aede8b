"""The dynamic emitter: every form of every product against float and the reference evaluator."""

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.errors import RecipeError
from onnxq.graph.tensors import total_bytes
from onnxq.graph.text import model_from_text
from onnxq.numerics.pair_safe import breaks
from onnxq.runtime.session import run_model
from onnxq.types.plan import Action
from onnxq.types.scheme import QuantType
from tests.support.integers import accumulated, exact_here, exactly
from tests.support.quantizing import quantize_model, quantize_text, text

ROW = "float[5,8] x"


@dataclass(frozen=True)
class Case:
    """A float model whose one node becomes an integer operator of that name."""

    text: str
    kernel: str
    feeds: dict[str, np.ndarray] | None = None


def _matmul(x, w, y):
    return Case(text("y = MatMul (x, w)", f"float{x} x", f"float{y} y", f"float{w} w"), "MatMulInteger")


def _gemm(attributes, bias):
    a, b = ("[8,5]" if "transA" in attributes else "[5,8]"), ("[6,8]" if "transB" in attributes else "[8,6]")
    inputs, weights = f"float{a} x", f"float{b} w"
    if bias is None:
        return Case(text(f"y = Gemm <{attributes}> (x, w)", inputs, "float[5,6] y", weights), "MatMulInteger")
    return Case(
        text(f"y = Gemm <{attributes}> (x, w, c)", inputs, "float[5,6] y", f"{weights}, float{bias} c"), "MatMulInteger"
    )


def _conv(attributes, x, w, y):
    bias = f"float[{w[1]}] b"
    return Case(
        text(f"y = Conv <{attributes}> (x, w, b)", f"float{x} x", f"float{y} y", f"float{w} w, {bias}"), "ConvInteger"
    )


def _recurrent(op, gates, direction):
    d = 2 if direction == "bidirectional" else 1
    return Case(
        text(
            f'y, h = {op} <hidden_size = 8, direction = "{direction}"> (x, w, r, b)',
            "float[5,2,16] x",
            f"float[5,{d},2,8] y, float[{d},2,8] h",
            f"float[{d},{gates * 8},16] w, float[{d},{gates * 8},8] r, float[{d},{2 * gates * 8}] b",
        ),
        "DynamicQuantizeLSTM",
    )


def _gather(axis, table, indices, output):
    count = int(np.prod(indices))
    size = [int(dim) for dim in table.strip("[]").split(",")][axis]
    ids = np.random.default_rng(0).integers(-size, size, count).reshape(indices)
    shape = f"[{','.join(str(dim) for dim in indices)}]" if indices else ""
    return Case(
        text(f"y = Gather <axis = {axis}> (w, i)", f"int64{shape} i", f"float{output} y", f"float{table} w", opset=19),
        "Gather",
        {"i": ids},
    )


CASES = {
    "matmul": _matmul("[5,8]", "[8,6]", "[5,6]"),
    "matmul-vector": _matmul("[8]", "[8,6]", "[6]"),
    "matmul-3d": _matmul("[2,5,8]", "[8,6]", "[2,5,6]"),
    "matmul-batched": _matmul("[2,5,8]", "[2,8,6]", "[2,5,6]"),
    "matmul-batched-broadcast": _matmul("[2,3,5,8]", "[3,8,6]", "[2,3,5,6]"),
    "matmul-batched-weight-only": _matmul("[5,8]", "[3,8,6]", "[3,5,6]"),
    **{
        f"gemm-{attributes.replace(' ', '')}": _gemm(attributes, "[6]")
        for attributes in (
            "alpha = 1.0",
            "alpha = 0.5",
            "alpha = -2.0, beta = 0.25",
            "beta = 0.0",
            "transA = 1",
            "transB = 1",
        )
    },
    "gemm-everything": _gemm("alpha = 0.5, beta = 3.0, transA = 1, transB = 1", "[1,6]"),
    **{f"gemm-bias{bias}": _gemm("beta = 2.0", bias) for bias in (None, "", "[1]", "[6]", "[1,6]", "[5,6]", "[5,1]")},
    "conv-1d": _conv("pads = [1, 1]", "[2,4,9]", "[6,4,3]", "[2,6,9]"),
    "conv-2d": _conv("pads = [1, 1, 1, 1], strides = [2, 2]", "[2,4,8,8]", "[6,4,3,3]", "[2,6,4,4]"),
    "conv-same": _conv('auto_pad = "SAME_UPPER"', "[2,4,8,8]", "[6,4,3,3]", "[2,6,8,8]"),
    "conv-dilated": _conv("dilations = [2, 2]", "[1,4,8,8]", "[6,4,3,3]", "[1,6,4,4]"),
    "conv-3d": _conv("pads = [1, 1, 1, 1, 1, 1]", "[1,4,5,5,5]", "[6,4,3,3,3]", "[1,6,5,5,5]"),
    "depthwise": _conv("group = 8", "[1,8,8,8]", "[8,1,3,3]", "[1,8,6,6]"),
    "grouped": _conv("group = 2", "[1,8,8,8]", "[6,4,3,3]", "[1,6,6,6]"),
    "lstm": _recurrent("LSTM", 4, "forward"),
    "lstm-reverse": _recurrent("LSTM", 4, "reverse"),
    "lstm-bidirectional": _recurrent("LSTM", 4, "bidirectional"),
    "gather": _gather(0, "[512,16]", (3, 4), "[3,4,16]"),
    "gather-scalar": _gather(0, "[512,16]", (), "[16]"),
    "gather-inner": _gather(1, "[16,512]", (3, 4), "[16,3,4]"),
    "gather-middle": _gather(1, "[4,256,8]", (3,), "[4,3,8]"),
}
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
@pytest.mark.parametrize("name", CASES)
def test_every_form_against_float_and_the_reference(name, granularity):
    case = CASES[name]
    done = dynamic(case.text, case.feeds, weights={"granularity": granularity})
    (decision,) = done.plan.decisions
    assert decision.action is Action.QUANTIZE
    assert decision.kernel == case.kernel
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30
    assert total_bytes(done.model) < total_bytes(done.float_model) + 1200  # small tables of parameters
    if case.kernel != "DynamicQuantizeLSTM":
        plain = run_model(done.model, dict(done.feeds))
        for expected, actual in zip(reference(done), plain.values(), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("weights", SCHEMES)
@pytest.mark.parametrize("name", ["matmul", "matmul-batched", "gemm-everything", "gather", "conv-2d", "lstm"])
def test_weights_of_every_scheme(name, weights, granularity):
    case = CASES[name]
    schemes = {"weights": {**SCHEMES[weights], "granularity": granularity}}
    if name in ("conv-2d", "lstm") and granularity == "per-channel" and weights != "symmetric":
        said = (
            "no kernel for per-channel weights; take per-tensor" if "unsigned" in weights else "set `symmetric: true`"
        )
        with pytest.raises(RecipeError, match=rf"_0'.* {said}"):
            dynamic(case.text, case.feeds, **schemes)
        return
    done = dynamic(case.text, case.feeds, **schemes)
    (decision,) = done.plan.decisions
    assert decision.kernel == case.kernel
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("granularity", ["per-tensor", "per-token"])
@pytest.mark.parametrize("activations", SCHEMES)
@pytest.mark.parametrize("weights", ["symmetric", "unsigned"])
@pytest.mark.parametrize("name", ["matmul", "matmul-3d", "matmul-batched", "gemm-everything", "gemm-bias[6]"])
def test_activations_of_every_scheme(name, weights, activations, granularity):
    schemes = {"activations": {**SCHEMES[activations], "granularity": granularity}, "weights": SCHEMES[weights]}
    if granularity == "per-tensor" and weights == "unsigned" and "unsigned" not in activations:
        with pytest.raises(RecipeError, match=r"_0'.* no kernel for uint8 weights; take int8"):
            dynamic(CASES[name].text, **schemes)
        return
    done = dynamic(CASES[name].text, **schemes)
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


@pytest.mark.parametrize("name", ["matmul", "gemm-everything", "conv-2d"])
@pytest.mark.parametrize("activations", SCHEMES)
def test_zeros_stay_zeros(name, activations):
    """Their scale would be 0, and 0 / 0 is not a number."""
    done = dynamic(CASES[name].text, activations=SCHEMES[activations])
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
    done = dynamic(CASES["gemm-bias[6]"].text)
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


def stored_codes(done):
    return {
        name: value.shape
        for name, value in done.model.graph.initializers.items()
        if value.dtype in (ir.DataType.INT8, ir.DataType.UINT8) and value.const_value.size > 20
    }


def test_a_weight_that_several_read_is_stored_once():
    source = text("a = MatMul (x, w) y = MatMul (a, w)", "float[5,8] x", "float[5,8] y", "float[8,8] w")
    assert list(stored_codes(dynamic(source))) == ["w/quantized"]


def test_an_embedding_and_the_product_with_it_transposed_are_stored_once():
    source = text("e = Gather (t, i) y = Gemm <transB = 1> (e, t)", "int64[5] i", "float[5,512] y", "float[512,64] t")
    done = dynamic(source, {"i": np.arange(5)})
    assert list(stored_codes(done)) == ["t/quantized"]
    assert done.kernels()["DynamicQuantizeMatMul"] == 1
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni", "cpu-arm64"])
@pytest.mark.parametrize("weights", ["symmetric", "asymmetric", "unsigned"])
@pytest.mark.parametrize("copied", [lambda table: np.ascontiguousarray(table.T), np.copy], ids=["transposed", "copied"])
def test_a_copy_of_an_embedding_is_stored_once_too(copied, weights, target):
    """Exporters and constant folding leave the product with a copy of its own."""
    source = text(
        "e = Gather (t, i) y = MatMul (x, u)",
        "int64[5] i, float[5,{k}] x",
        "float[5,64] e, float[5,{n}] y",
        "float[512,64] t, float[{k},{n}] u",
    )
    size = copied(np.zeros((512, 64)))
    model = model_from_text(source.replace("{k}", str(size.shape[0])).replace("{n}", str(size.shape[1])))
    table = model.graph.initializers["t"].const_value.numpy()
    model.graph.initializers["u"].const_value = ir.tensor(copied(table), name="u")
    feeds = {"i": np.arange(5), "x": np.random.default_rng(2).standard_normal((5, len(size))).astype(np.float32)}
    schemes = {"weights": {**SCHEMES[weights], "granularity": "per-tensor"}, "target": target}
    done = quantize_model(model, feeds, format="dynamic", placement="everywhere", **schemes)
    assert len(stored_codes(done)) == 1
    if exact_here(target):
        assert done.sqnr(optimize=False) > 30
        assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni"])
def test_a_transposed_copy_with_a_scale_for_each_row_is_stored_once_too(target):
    source = text(
        "e = Gather (t, i) y = MatMul (e, u)", "int64[5] i", "float[5,512] y", "float[512,64] t, float[64,512] u"
    )
    model = model_from_text(source)
    table = model.graph.initializers["t"].const_value.numpy()
    model.graph.initializers["u"].const_value = ir.tensor(np.ascontiguousarray(table.T), name="u")
    done = quantize_model(model, {"i": np.arange(5)}, format="dynamic", placement="everywhere", target=target)
    assert list(stored_codes(done)) == ["t/quantized"]
    codes = done.model.graph.initializers["t/quantized"].const_value.numpy()
    assert (breaks(codes, (1,), 128) == 0) is (target == "cpu-avx2")


def test_a_transposed_embedding_that_is_moved_in_the_graph_is_stored_once():
    """Constant folding leaves the Transpose: the model would grow by the copy."""
    source = text(
        "e = Gather (t, i) u = Transpose <perm = [1, 0]> (t) y = MatMul (e, u)",
        "int64[5] i",
        "float[5,512] y",
        "float[512,64] t",
    )
    done = dynamic(source, {"i": np.arange(5)})
    assert list(stored_codes(done)) == ["t/quantized"]
    assert "t" not in done.model.graph.initializers
    assert [node.op_type for node in done.model.graph].count("Transpose") == 1
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


def test_weights_put_together_from_parts():
    """As exporters order the gates of an LSTM."""
    source = text(
        "p = Slice (v, zero, four) q = Slice (v, four, twelve) o = Concat <axis = 0> (q, p) w = Unsqueeze (o, zero) "
        "y = LSTM <hidden_size = 3> (x, w, r)",
        "float[5,2,16] x",
        "float[5,1,2,3] y",
        "float[12,16] v, float[1,12,3] r, int64[1] zero = {0}, int64[1] four = {4}, int64[1] twelve = {12}",
    )
    done = dynamic(source)
    assert [node.op_type for node in done.model.graph] == ["DynamicQuantizeLSTM"]
    assert not {"v", "r", "zero", "four"} & set(done.model.graph.initializers)
    assert done.sqnr(optimize=False) > 30


def test_a_transposed_weight_of_one_reader_is_stored_as_it_is_read():
    done = dynamic(CASES["gemm-transB=1"].text)
    assert stored_codes(done) == {"w/quantized": ir.Shape([8, 6])}
    assert "Transpose" not in [node.op_type for node in done.model.graph]


def test_float_constants_that_nothing_reads_are_gone():
    done = dynamic(CASES["gemm-everything"].text)
    assert not {"w", "c"} & set(done.model.graph.initializers)


def test_a_weight_that_something_else_reads_as_float_stays():
    done = dynamic(text("y = MatMul (x, w) z = Neg (w)", ROW, "float[5,6] y, float[8,6] z", "float[8,6] w"))
    assert "w" in done.model.graph.initializers
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
    done = dynamic(CASES["lstm"].text, portable=True)
    (decision,) = done.plan.decisions
    assert (decision.format, decision.kernel) == ("weight-only", "DequantizeLinear")
    assert {node.domain for node in done.model.graph} == {""}


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_an_lstm_is_quantized_at_run_time_in_formats_that_have_no_kernel_for_it(form):
    done = quantize_text(CASES["lstm"].text, CASES["lstm"].feeds, format=form)
    (decision,) = done.plan.decisions
    assert (decision.format, decision.kernel) == ("dynamic", "DynamicQuantizeLSTM")
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("name", ["matmul", "gemm-everything", "conv-2d", "gather"])
def test_all_else_is_written_in_operators_of_the_standard(name):
    done = dynamic(CASES[name].text, CASES[name].feeds, portable=True)
    assert done.plan.decisions[0].action is Action.QUANTIZE
    assert {node.domain for node in done.model.graph} == {""}


def test_a_convolution_is_slower_on_codes_and_stays_unless_wanted_everywhere():
    done = quantize_text(CASES["conv-2d"].text, format="dynamic")
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
    case = _gather(0, "[16,16]", (3,), "[3,16]")
    (decision,) = dynamic(case.text, case.feeds).plan.decisions
    assert decision.action is Action.KEEP
    assert "4096" in decision.reason.text


def test_scales_along_the_summed_axis_are_refused():
    granularity = {"kind": "per-channel", "axis": 0}
    with pytest.raises(RecipeError, match=r"'MatMul_0': .* scales along axis 0 .* take them along axis 1"):
        dynamic(CASES["matmul"].text, weights={"granularity": granularity})


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
