"""The weight-only emitter: every operator, width and block size, against dequantized weights in exact arithmetic."""

import dataclasses
import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.errors import PassError, RecipeError
from onnxq.graph.text import model_from_text
from onnxq.numerics.affine import dequantize
from onnxq.passes import passes
from onnxq.runtime.session import run_model
from onnxq.stages.rewrite import rewrite
from onnxq.weights import make_weight_method
from tests.support.operators import WEIGHTS
from tests.support.quantizing import plan_for, quantize_model, quantize_text, text

EXACT = 100  # dB: nothing but float32 rounding


def exact_feeds(model):
    """Whole numbers up to 127, with a 127 in every 16 of the last axis: rounding them to 8 bits changes nothing."""
    rng = np.random.default_rng(5)
    feeds = {}
    for value in model.graph.inputs:
        shape = [int(dim) for dim in value.shape]
        if value.dtype == ir.DataType.INT64:
            feeds[value.name] = rng.integers(-7, 7, shape)
        else:
            feeds[value.name] = rng.integers(-127, 128, shape).astype(np.float32)
            feeds[value.name][..., ::16] = 127
    return feeds


def sqnr(expected, actual):
    noise = np.sum(np.square(np.asarray(expected, np.float64) - actual))
    return 10 * np.log10(np.sum(np.square(expected, dtype=np.float64)) / noise) if noise else np.inf


def with_dequantized_weights(done):
    """The float model with each planned weight replaced by what its codes represent, computed without the emitter."""
    model = done.float_model.clone()
    for tensor in done.plan.tensors.values():
        value = model.graph.initializers[tensor.tensor]
        weight = value.const_value.numpy()
        codes, params = make_weight_method(tensor.method)(weight, tensor.scheme)
        value.const_value = ir.tensor(dequantize(codes, params), name=value.name)
    return model


def check(done, feeds, *, exact=EXACT, reference=True):
    """The model computes with exactly the dequantized weights, optimizer off and as served."""
    oracle = with_dequantized_weights(done)
    if reference:
        outputs = ReferenceEvaluator(ir.to_proto(oracle)).run(None, feeds)
    else:
        outputs = run_model(oracle, feeds, optimize=False).values()
    for optimize in (False, True):
        for expected, actual in zip(outputs, run_model(done.model, feeds, optimize=optimize).values(), strict=True):
            assert actual.shape == expected.shape
            assert sqnr(expected, actual) > exact, f"optimize={optimize}"


def quantize(body, inputs, output, constants, *, opset=21, **options):
    return quantize_source(text(body, inputs, output, constants, opset=opset), **options)


def quantize_source(source, **options):
    model = model_from_text(source)
    feeds = exact_feeds(model)
    return quantize_model(model, feeds, format="weight-only", **options), feeds


PRODUCTS = ("matmul", "matmul-3d", "matmul-vector", "gemm", "gemm-transposed")
LOOKUPS = ("gather", "gather-scalar")
TYPES = {
    f"{bits}-{'symmetric' if symmetric else 'asymmetric'}": {"dtype": f"{sign}int{bits}", "symmetric": symmetric}
    for (bits, sign), symmetric in itertools.product([(2, ""), (4, ""), (4, "u"), (8, ""), (8, "u")], [True, False])
} | {"2u": {"dtype": "uint2", "symmetric": False}, "3": {"dtype": "int3", "symmetric": True}}
PACKED = [
    *(("matmul", granularity) for granularity in ("per-block(16)", "per-block(32)", "per-block(128)", "per-channel")),
    *(("gather", granularity) for granularity in ("per-block(16)", "per-channel")),
]


@pytest.mark.parametrize("portable", [False, True], ids=["contrib", "portable"])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("family", "granularity"), PACKED)
def test_every_width_block_and_symmetry_is_packed_exactly(family, kind, granularity, portable):
    weights = {**TYPES[kind], "granularity": granularity}
    done, feeds = quantize_source(WEIGHTS[family].text(opset=25), portable=portable, weights=weights)
    kernel = {"matmul": "MatMulNBits", "gather": "GatherBlockQuantized"}[family]
    assert done.plan.decisions[0].kernel == ("DequantizeLinear" if portable else kernel)
    if family == "matmul":
        assert done.kernels()["MatMulNBits"] == 1, "the runtime makes the same kernel of the portable form"
    check(done, feeds)


@pytest.mark.parametrize("portable", [False, True], ids=["contrib", "portable"])
@pytest.mark.parametrize("family", PRODUCTS + LOOKUPS)
def test_every_form_of_products_and_lookups(family, portable):
    done, feeds = quantize_source(WEIGHTS[family].text(opset=21), portable=portable)
    check(done, feeds)
    assert done.sqnr(optimize=True) > 20


BIASES = {"scalar": "float b", "one": "float[1] b", "n": "float[24] b", "1n": "float[1,24] b", "mn": "float[5,24] b"}


@pytest.mark.parametrize("portable", [False, True], ids=["contrib", "portable"])
@pytest.mark.parametrize(
    ("bias", "alpha", "beta", "transposed"),
    [
        *((bias, 2.0, -3.0, 0) for bias in BIASES),
        *((bias, 1.0, 1.0, 1) for bias in BIASES),
        ("n", 0.5, 1.0, 1),
        ("n", 1.0, 0.25, 0),
    ],
)
def test_gemm_with_every_alpha_beta_and_bias(bias, alpha, beta, transposed, portable):
    shape = "24,72" if transposed else "72,24"
    done, feeds = quantize(
        f"y = Gemm <alpha = {alpha}, beta = {beta}, transB = {transposed}> (x, w, b)",
        "float[5,72] x",
        "float[5,24] y",
        f"float[{shape}] w, {BIASES[bias]}",
        portable=portable,
    )
    assert list(done.plan.tensors) == ["w"]
    check(done, feeds)


def test_gemm_whose_bias_is_computed():
    done, feeds = quantize(
        "y = Gemm <beta = 0.5> (x, w, c)", "float[5,72] x, float[24] c", "float[5,24] y", "float[72,24] w"
    )
    check(done, feeds)


UNPACKED = (
    "conv-1d",
    "conv-2d",
    "conv-3d",
    "depthwise",
    "grouped",
    "conv-transpose",
    "conv-transpose-grouped",
    "matmul-batched",
    "lstm-forward",
    "gru-forward",
)
SCHEMES = {
    "default": ({}, 17),
    "int8-per-tensor": ({"dtype": "int8", "symmetric": True, "granularity": "per-tensor"}, 17),
    "uint8-per-channel": ({"dtype": "uint8", "symmetric": False, "granularity": "per-channel"}, 17),
    "int8-blocks": ({"dtype": "int8", "symmetric": False, "granularity": "per-block(16)"}, 21),
    "int4-channels": ({"dtype": "int4", "symmetric": True, "granularity": "per-channel"}, 21),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", UNPACKED)
def test_weights_of_other_operators_are_unpacked_before_them(family, scheme):
    weights, opset = SCHEMES[scheme]
    opset = 21 if family == "matmul-batched" and scheme == "default" else opset
    done, feeds = quantize_source(WEIGHTS[family].text(opset), weights=weights)
    decision = done.plan.decisions[0]
    if family == "depthwise" and scheme == "int8-blocks":
        assert decision.reason.code == "no-gain", (
            "one input channel a group: every weight would have a scale of its own"
        )
        return
    assert decision.kernel == "DequantizeLinear"
    assert "unpacks" in decision.reason.text
    bound = 90 if family.startswith(("lstm", "gru")) else EXACT  # their exponentials are approximated
    feeds = {name: array / np.float32(64) for name, array in feeds.items()}
    # The reference evaluator cannot do groups of more inputs than outputs.
    check(done, feeds, exact=bound, reference=family != "conv-transpose-grouped")


@pytest.mark.parametrize("family", ["lstm-forward", "gru-forward", "conv-2d", "conv-transpose-grouped"])
def test_default_weights_of_other_operators_are_near_float(family):
    done = quantize_text(WEIGHTS[family].text(), format="weight-only")
    assert {tensor.scheme.dtype for tensor in done.plan.tensors.values()} == {"int8"}
    assert done.sqnr(optimize=False) > 40
    assert done.sqnr(optimize=True) > 40


@pytest.mark.parametrize(("bits", "least"), [(2, 7), (3, 15), (4, 21), (8, 40)])
def test_distance_from_float_of_every_width(bits, least):
    done = quantize_text(
        text("y = MatMul (x, w)", "float[64,256] x", "float[64,64] y", "float[256,64] w"),
        format="weight-only",
        weights={"dtype": f"int{bits}"},
    )
    assert done.sqnr(optimize=False) > least
    assert done.sqnr(optimize=True) > least


def test_portable_models_hold_operators_of_the_standard_alone_and_the_reference_runs_them():
    done, feeds = quantize(
        "a = Gather (w, i) h = MatMul (a, v) y = Gemm (h, u, b)",
        "int64[6] i",
        "float[6,24] y",
        "float[40,64] w, float[64,48] v, float[48,24] u, float[24] b",
        portable=True,
    )
    assert {node.domain for node in done.model.graph} == {""}
    (expected,) = ReferenceEvaluator(ir.to_proto(done.model)).run(None, feeds)
    (actual,) = run_model(done.model, feeds, optimize=False).values()
    assert sqnr(expected, actual) > EXACT


def test_zero_points_of_an_odd_number_of_blocks_are_packed_row_by_row():
    """72 columns in blocks of 32: three zero points a row, in two bytes of which the last is half empty."""
    done, _ = quantize(
        "y = MatMul (x, w)",
        "float[5,72] x",
        "float[5,24] y",
        "float[72,24] w",
        weights={"dtype": "uint4", "symmetric": False, "method": "rtn"},
    )
    stored = {name: value.const_value.numpy() for name, value in done.model.graph.initializers.items()}
    weight = done.float_model.graph.initializers["w"].const_value.numpy().T
    blocks = np.pad(weight, [(0, 0), (0, 24)]).reshape(24, 3, 32)
    low, high = np.minimum(blocks.min(-1), 0), np.maximum(blocks.max(-1), 0)
    scale = (high - low) / np.float32(15)
    zero_point = np.rint(-low / scale).astype(int)
    np.testing.assert_allclose(stored["w/scale"], scale, rtol=1e-6)
    packed = stored["w/zero_point"]
    assert packed.dtype == np.uint8
    assert packed.shape == (24, 2)
    np.testing.assert_array_equal(packed[:, 0], zero_point[:, 0] | zero_point[:, 1] << 4)
    np.testing.assert_array_equal(packed[:, 1], zero_point[:, 2])
    assert stored["w/quantized"].shape == (24, 3, 16)
    codes = np.clip(np.rint(blocks / scale[..., None]) + zero_point[..., None], 0, 15).astype(int)
    np.testing.assert_array_equal(
        stored["w/quantized"].reshape(24, -1)[:, :36], (codes[..., ::2] | codes[..., 1::2] << 4).reshape(24, -1)[:, :36]
    )


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"granularity": "per-block(24)"}, "no kernel for blocks of 24; take 16, 32, 64, 128 or 256"),
        ({"dtype": "int16", "symmetric": True}, "no kernel for int16 weights; take int2"),
        ({"granularity": {"kind": "per-block", "size": 32, "axis": 1}}, "blocks along axis 1 have no kernel"),
    ],
)
def test_what_no_kernel_takes_is_refused_with_the_node_and_what_would_do(weights, said):
    model = ir.to_proto(model_from_text(WEIGHTS["matmul"].text()))
    with pytest.raises(RecipeError) as caught:
        onnxq.quantize(model, format="weight-only", weights=weights)
    assert "'MatMul_0'" in str(caught.value)
    assert said in str(caught.value)


def test_blocks_in_operators_of_the_standard_raise_the_opset():
    model = ir.to_proto(model_from_text(WEIGHTS["matmul"].text(opset=17)))
    for weights, opset in (({}, 21), ({"dtype": "int2", "symmetric": True}, 25)):
        report = onnxq.quantize(model, format="weight-only", portable=True, weights=weights, check=False)
        assert report.model.opset_import[0].version == opset
        onnx.checker.check_model(report.model, full_check=True)
    assert onnxq.quantize(model, format="weight-only", check=False).model.opset_import[0].version == 17


def test_without_a_higher_opset_the_reason_names_it():
    done, _ = quantize_source(WEIGHTS["matmul"].text(opset=17), portable=True)
    assert "needs opset 21, the model has 17" in done.decision("MatMul_0").reason.text


def test_rules_mix_widths_and_formats():
    done = quantize_text(
        text(
            "a = MatMul (x, w) r = Relu (a) b = MatMul (r, v) c = Relu (b) y = MatMul (c, u)",
            "float[16,64] x",
            "float[16,64] y",
            "float[64,64] w, float[64,64] v, float[64,64] u",
        ),
        format="weight-only",
        rules=[
            {"match": {"name": "MatMul_0"}, "weights": {"dtype": "int8", "granularity": "per-channel"}},
            {"match": {"name": "MatMul_4"}, "format": "qdq"},
        ],
    )
    assert [done.decision(f"MatMul_{index}").format for index in (0, 2, 4)] == ["weight-only", "weight-only", "qdq"]
    bits = {node.name: node.attributes["bits"].as_int() for node in done.model.graph if node.op_type == "MatMulNBits"}
    assert bits == {"MatMul_0": 8, "MatMul_2": 4}
    assert done.sqnr(optimize=True) > 18


def test_a_plan_with_a_kernel_that_cannot_be_written_is_refused():
    model = model_from_text(WEIGHTS["matmul"].text())
    plan = plan_for(model, exact_feeds(model), format="weight-only")
    wrong = dataclasses.replace(plan, decisions=(dataclasses.replace(plan.decisions[0], kernel="MatMulBnb4"),))
    with pytest.raises(PassError, match="kernel 'MatMulBnb4' has no form in format weight-only"):
        rewrite(model, wrong)


def test_the_pass_says_whether_it_changed_anything():
    model = model_from_text(text("y = Tanh (x)", "float[2] x", "float[2] y"))
    plan = plan_for(model, {"x": np.ones(2, np.float32)}, format="weight-only")
    assert not passes.get("emit-weight-only").make({"plan": plan})(model).modified


def test_no_gain_comes_before_an_opset_that_is_too_low():
    done = quantize_text(
        text("y = MatMul (x, w)", "float[2,4] x", "float[2,4] y", "float[4,4] w", opset=13),
        format="weight-only",
        weights="codebook(4)",
    )
    assert done.reasons() == {"MatMul_0": "no-gain"}


def test_eight_bits_a_channel_lose_little_to_the_rounding_of_what_they_multiply():
    """The kernel rounds activations to 8 bits block by block: large features must not take the others along."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 512)).astype(np.float32)
    x[:, ::97] *= 30
    done = quantize_text(
        text("y = MatMul (x, w)", "float[8,512] x", "float[8,64] y", "float[512,64] w"),
        {"x": x},
        format="weight-only",
        weights="int8,per-channel",
    )
    (expected,) = run_model(with_dequantized_weights(done), {"x": x}).values()
    (actual,) = run_model(done.model, {"x": x}, optimize=True).values()
    assert sqnr(expected, actual) > 36


def test_accuracy_level_1_does_not_round_what_it_multiplies():
    rng = np.random.default_rng(11)
    weight = rng.normal(size=(64, 24)).astype(np.float32)
    body = "n (float[8, 64] x) => (float[8, 24] y)\n<float[64, 24] w = {%s}>\n{ y = MatMul (x, w) }"
    model = model_from_text('<ir_version: 10, opset_import: ["" : 21]>\n' + body % ", ".join(map(str, weight.ravel())))
    feeds = {"x": rng.normal(size=(8, 64)).astype(np.float32)}
    found = {}
    for level in (4, 1):
        done = quantize_model(model, feeds, format="weight-only", weights="uint4", accuracy_level=level)
        (decision,) = (entry for entry in done.plan.decisions if entry.op == "MatMul")
        assert decision.accuracy_level == level
        (expected,) = run_model(with_dequantized_weights(done), feeds, optimize=False).values()
        found[level] = [sqnr(expected, run_model(done.model, feeds, optimize=on)["y"]) for on in (False, True)]
        assert ("not rounded" in decision.reason.text) is (level == 1)
    assert min(found[1]) > EXACT
    assert max(found[4]) < EXACT - 30


def test_an_accuracy_level_that_nothing_has_is_told():
    body = "n (float[8, 64] x) => (float[8, 64] y)\n{ y = Relu (x) }"
    model = model_from_text('<ir_version: 10, opset_import: ["" : 21]>\n' + body)
    plan = plan_for(model, {"x": np.ones((8, 64), np.float32)}, format="weight-only", accuracy_level=1)
    assert any("accuracy_level: 1" in warning for warning in plan.warnings)
    with pytest.raises(RecipeError, match="accuracy_level"):
        plan_for(model, {"x": np.ones((8, 64), np.float32)}, format="weight-only", accuracy_level=2)
