"""Codebooks: what the graph decodes is the numpy codebook bit for bit, and no worse than evenly spaced codes."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import ModelError, RecipeError
from onnxq.evaluate.verify import read_kernels
from onnxq.files.plan import plan_from_json, plan_to_json
from onnxq.graph.tensors import total_bytes
from onnxq.graph.text import model_from_text
from onnxq.numerics.affine import dequantize
from onnxq.numerics.codebook import codebook_dequantize, codebook_quantize
from onnxq.runtime.session import run_model
from onnxq.stages.rewrite import simulate
from onnxq.types.plan import Action
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerTensor
from onnxq.weights import make_weight_method
from tests.support.operators import WEIGHTS
from tests.support.quantizing import quantize_model, quantize_text, text

FORMS = (
    "matmul",
    "matmul-batched",
    "gemm alpha = 0.5",
    "gemm-transposed",
    "conv-1d",
    "conv-2d",
    "grouped",
    "conv-transpose",
    "gather",
    "gather-scalar",
    "lstm-forward",
)
CASES = [
    (family, granularity)
    for family in FORMS
    for granularity in ("per-tensor", "per-channel", "per-block(64)")  # 64: the last block of 72 is short
    if granularity == "per-tensor" or not family.startswith("gather")
]


def feeds_of(model):
    rng = np.random.default_rng(3)
    return {
        value.name: rng.integers(-9, 9, [int(dim) for dim in value.shape])
        if value.dtype == ir.DataType.INT64
        else rng.normal(size=[int(dim) for dim in value.shape]).astype(np.float32)
        for value in model.graph.inputs
    }


def quantize(source, weights, **options):
    model = model_from_text(source)
    return quantize_model(model, feeds_of(model), format="weight-only", weights=weights, **options)


def with_decoded_weights(done):
    """The float model with each planned weight replaced by what its indices represent, computed without the emitter."""
    model = done.float_model.clone()
    for tensor in done.plan.tensors.values():
        value, scheme = model.graph.initializers[tensor.tensor], tensor.scheme
        codes, codebook = codebook_quantize(value.const_value.numpy(), scheme.codebook, scheme.granularity)
        value.const_value = ir.tensor(codebook_dequantize(codes, codebook), name=value.name)
    return model


@pytest.mark.parametrize(
    ("family", "granularity", "bits"),
    [(*case, bits) for case in CASES for bits in (2, 3)]
    + [(family, "per-tensor", 6) for family in ("matmul", "conv-2d", "gather", "lstm-forward")]
    + [("matmul", "per-channel", 6), ("gemm-transposed", "per-block(64)", 6)],
)
def test_a_model_computes_with_the_codebooks_values_bit_for_bit(family, bits, granularity):
    done = quantize(WEIGHTS[family].text(opset=25), f"codebook({bits}),{granularity}")
    (decision,) = done.plan.decisions
    if decision.reason.code == "no-gain":  # 64 values a table: of 64 blocks' values each, or of a small channel
        assert bits == 6 or granularity == "per-block(64)"
        return
    assert decision.kernel == "Gather"
    oracle = with_decoded_weights(done)
    for optimize in (False, True):
        expected = run_model(oracle, done.feeds, optimize=optimize)["y"]
        np.testing.assert_array_equal(run_model(done.model, done.feeds, optimize=optimize)["y"], expected)
    simulated = simulate(done.float_model, done.plan)
    expected = run_model(oracle, done.feeds, optimize=False)["y"]
    np.testing.assert_array_equal(run_model(simulated, done.feeds, optimize=False)["y"], expected)


@pytest.mark.parametrize(
    ("bits", "granularity"),
    [(2, "per-tensor"), (4, "per-tensor"), (8, "per-tensor"), (2, "per-channel"), (4, "per-channel")],
)
def test_the_error_is_not_above_that_of_evenly_spaced_codes(bits, granularity):
    model = model_from_text(text("y = MatMul (x, w)", "float[4,1200] x", "float[4,16] y", "float[1200,16] w", opset=25))
    weight = np.random.default_rng(0).standard_t(4, size=(1200, 16)).astype(np.float32)
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    errors = {}
    for name, weights in (
        ("codebook", f"codebook({bits}),{granularity}"),
        ("rtn", f"uint{bits},asymmetric,{granularity},method=rtn"),
        ("mse", f"uint{bits},asymmetric,{granularity},method=mse"),
    ):
        done = quantize_model(model, format="weight-only", weights=weights)
        (tensor,) = done.plan.tensors.values()
        if name == "codebook":
            assert tensor.method == "kmeans"
            values = with_decoded_weights(done).graph.initializers["w"].const_value.numpy()
        else:
            values = dequantize(*make_weight_method(tensor.method)(weight, tensor.scheme))
        errors[name] = np.sum((values.astype(np.float64) - weight) ** 2)
    assert errors["codebook"] < 0.9 * min(errors["rtn"], errors["mse"])


def test_two_bits_keep_more_than_two_evenly_spaced_ones():
    case = text("y = MatMul (x, w)", "float[64,256] x", "float[64,64] y", "float[256,64] w", opset=25)
    found = quantize_text(case, format="weight-only", weights="codebook(2)").sqnr(optimize=True)
    assert found > quantize_text(case, format="weight-only", weights="uint2,asymmetric,per-tensor").sqnr(optimize=True)
    assert found > 9  # of a normal distribution, 4 levels lose 9.3 dB (Max 1960, table 1)


@pytest.mark.parametrize(
    ("bits", "kind", "opset"), [(2, "UINT2", 25), (3, "UINT4", 21), (4, "UINT4", 21), (5, "UINT8", 17)]
)
def test_indices_are_stored_in_the_smallest_type_and_raise_the_opset_for_it(bits, kind, opset):
    model = ir.to_proto(model_from_text(WEIGHTS["matmul"].text(opset=17)))
    made = onnxq.quantize(model, format="weight-only", weights=f"codebook({bits})", check=False).model
    stored = {entry.name: entry for entry in made.graph.initializer}
    assert onnx.TensorProto.DataType.Name(stored["w/indices"].data_type) == kind
    assert list(stored["w/codebook"].dims) == [2**bits]
    assert sorted(stored) == ["w/codebook", "w/indices"]
    assert made.opset_import[0].version == opset


def test_size_shrinks_to_the_bits_of_the_indices():
    body = "e = Gather (v, i) a = MatMul (e, w) r = Relu (a) y = Gemm (r, u, b)"
    weights = "float[512,256] v, float[256,512] w, float[512,128] u, float[128] b"
    model = ir.to_proto(model_from_text(text(body, "int64[6] i", "float[6,128] y", weights)))
    for bits, share in ((2, 0.07), (4, 0.135)):
        made = onnxq.quantize(model, format="weight-only", weights=f"codebook({bits})", check=False)
        assert made.model.ByteSize() < share * model.ByteSize()


def test_the_optimizer_decodes_weights_once_and_nothing_is_reported_as_unfused():
    body = "e = Gather (v, i) y = MatMul (e, w)"
    done = quantize_text(
        text(body, "int64[6] i", "float[6,96] y", "float[96,72] v, float[72,96] w", opset=21),
        {"i": np.arange(6)},
        format="weight-only",
        weights="codebook(4)",
    )
    kernels = done.kernels()
    assert (kernels["Gather"], kernels["MatMul"]) == (2, 1)
    assert read_kernels(done.float_model, done.model, done.plan).unfused == {}
    assert "codebook(4) uint4 per-tensor weights; the runtime decodes them" in done.decision("MatMul_1").reason.text
    assert plan_from_json(plan_to_json(done.plan)) == done.plan


def test_a_weight_that_two_products_read_is_decoded_once():
    done = quantize(
        text(
            "a = MatMul (x, w) b = MatMul (z, w) y = Add (a, b)",
            "float[5,72] x, float[5,72] z",
            "float[5,96] y",
            "float[72,96] w",
            opset=25,
        ),
        "codebook(4),per-channel",
    )
    assert sorted(done.model.graph.initializers) == ["w/begins", "w/codebook", "w/indices"]
    assert [node.op_type for node in done.model.graph].count("Cast") == 1
    assert done.sqnr(optimize=True) > 18


@pytest.mark.parametrize(
    ("tie", "bits"),
    [("transpose", 2), ("copy", 2), ("gemm", 2), ("transpose", 4), ("copy", 4), ("gemm", 4), ("gemm", 8)],
)
def test_an_embedding_and_the_product_with_its_transpose_are_stored_once(tie, bits):
    products = {
        "transpose": "t = Transpose <perm = [1, 0]> (w) y = MatMul (x, t)",
        "copy": "y = MatMul (x, v)",
        "gemm": "y = Gemm <transB = 1> (x, w)",
    }
    model = model_from_text(
        text(
            f"e = Gather (w, i) {products[tie]}",
            "int64[3] i, float[5,72] x",
            "float[3,72] e, float[5,256] y",
            "float[256,72] w" + (", float[72,256] v" if tie == "copy" else ""),
            opset=25,
        )
    )
    weight = model.graph.initializers["w"].const_value.numpy()
    if tie == "copy":
        model.graph.initializers["v"].const_value = ir.tensor(np.ascontiguousarray(weight.T), name="v")
    done = quantize_model(model, feeds_of(model), format="weight-only", weights=f"codebook({bits})")
    values = codebook_dequantize(*codebook_quantize(weight, bits, PerTensor()))
    for optimize in (False, True):
        found = run_model(done.model, dict(done.feeds), optimize=optimize)
        np.testing.assert_array_equal(found["e"], values[done.feeds["i"]])
        np.testing.assert_allclose(found["y"], done.feeds["x"] @ values.T, rtol=1e-4, atol=1e-4)
    assert total_bytes(done.model) < weight.size * bits // 8 + 4 * 2**bits + 200


def test_rules_mix_codebooks_with_other_weights():
    done = quantize_text(
        text(
            "a = MatMul (x, w) r = Relu (a) b = MatMul (r, v) c = Relu (b) y = MatMul (c, u)",
            "float[16,96] x",
            "float[16,96] y",
            "float[96,96] w, float[96,96] v, float[96,96] u",
            opset=21,
        ),
        format="weight-only",
        weights="codebook(4),per-channel",
        rules=[
            {"match": {"name": "MatMul_0"}, "weights": "int8,symmetric"},
            {"match": {"name": "MatMul_2"}, "weights": "codebook(3)"},
        ],
    )
    assert [str(done.plan.tensors[name].scheme) for name in "wvu"] == [
        "int8 symmetric per-channel",
        "codebook(3) uint4 per-channel",
        "codebook(4) uint4 per-channel",
    ]
    assert [done.plan.tensors[name].method for name in "wvu"][1:] == ["kmeans", "kmeans"]
    assert done.sqnr(optimize=False) > 12
    assert done.sqnr(optimize=True) > 12


def test_tables_that_take_more_than_they_save_are_refused():
    source = text("y = MatMul (x, w)", "float[5,24] x", "float[5,96] y", "float[24,96] w", opset=25)
    decision = quantize(source, "codebook(5),per-channel").decision("MatMul_0")
    assert decision.reason.code == "no-gain"
    codes, tables, begins = 24 * 96, 4 * 32 * 96, 4 * 96
    assert f"{4 * 24 * 96} bytes in float" in decision.reason.text
    assert int(decision.reason.text.split("take ")[-1].split()[0]) >= codes + tables + begins


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("gather", {"weights": "codebook(4),per-channel"}, "one table for the whole matrix; take per-tensor"),
        (
            "matmul",
            {"weights": "codebook(4),int4"},
            "int4 holds no indices of 4 bits; leave the dtype out, or take uint4",
        ),
        (
            "matmul",
            {"weights": "codebook(5),uint4"},
            "uint4 holds no indices of 5 bits; leave the dtype out, or take uint8",
        ),
        (
            "matmul",
            {"weights": "codebook(4),symmetric"},
            "a codebook has no symmetric: exact k-means .* `symmetric` out",
        ),
        ("matmul", {"weights": "codebook(4),method=mse"}, "leave `method` out"),
        ("matmul", {"weights": "codebook(9)"}, "weights.codebook: .* less than or equal to 8, found 9"),
        ("matmul", {"weights": "codebok(4)"}, r"unknown word 'codebok\(4\)'; did you mean 'codebook\(4\)'"),
        (
            "matmul",
            {"weights": "codebook(4)", "format": "dynamic"},
            "'MatMul_0': format dynamic has no codebooks; .*weight-only",
        ),
        ("matmul", {"weights": "codebook(4)", "format": "qdq"}, "format qdq has no codebooks"),
        ("matmul", {"activations": "codebook(4)"}, "unknown key 'activations.codebook'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_would_do(family, options, said):
    model = ir.to_proto(model_from_text(WEIGHTS[family].text(opset=21)))
    with pytest.raises(RecipeError, match=said):
        onnxq.quantize(model, **{"format": "weight-only", **options}, check=False)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "weight-only", "weights": "codebook(4)"},
        {"format": "weight-only"},
        {"format": "dynamic"},
        {"format": "qdq"},
        {"format": "qdq", "weights": "per-tensor"},
        {"format": "qoperator"},
    ],
    ids=str,
)
@pytest.mark.parametrize(("target", "wrong"), [("cpu-avx2", np.nan), ("cpu-vnni", np.inf), ("cpu-arm64", np.nan)])
def test_a_weight_with_nan_is_planned_and_refused_by_name(wrong, target, options):
    model = model_from_text(WEIGHTS["matmul"].text(opset=21))
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    weight[3, 4] = wrong
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    options = {"placement": "everywhere", "target": target, **options}
    plan = onnxq.plan(ir.to_proto(model), **options)
    assert plan.decisions[0].action is Action.QUANTIZE
    with pytest.raises(ModelError, match=r"^weight 'w' holds NaN"):
        onnxq.quantize(ir.to_proto(model), check=False, **options)
    with pytest.raises(ModelError, match=r"^weight 'w' holds NaN"):
        onnxq.simulate(ir.to_proto(model), **options)


def test_the_short_form_means_the_long_one():
    long = {"codebook": 4, "granularity": {"kind": "per-channel"}}
    recipe = Recipe.parse({"weights": "codebook(4), per-channel"})
    assert recipe == Recipe.parse({"weights": long})
    assert Recipe.parse(recipe.plain()) == recipe


def test_the_report_compares_it_as_served():
    model = ir.to_proto(model_from_text(WEIGHTS["matmul"].text(opset=21)))
    report = onnxq.quantize(model, format="weight-only", weights="codebook(8),per-tensor", guard=False)
    assert not [text for text in report.warnings if "integer kernels" in text]


def test_importance_finds_values_for_the_weights_that_count():
    """One feature in eight is large: the tables serve its weights, and the output errs less."""
    random = np.random.default_rng(3)
    weight = random.normal(size=(64, 16)).astype(np.float32)
    weight[::8] *= 0.2
    size = np.where(np.arange(64) % 8 == 0, 30, 0.1)
    feeds = {"x": (random.normal(size=(100, 64)) * size).astype(np.float32)}
    numbers = ", ".join(str(value) for value in weight.ravel())
    graph = f"""
<ir_version: 10, opset_import: ["" : 21]>
one (float[100, 64] x) => (float[100, 16] y) <float[64, 16] w = {{{numbers}}}> {{ y = MatMul (x, w) }}
"""
    found = {
        method: quantize_text(graph, feeds, format="weight-only", weights=f"codebook(3),method={method}")
        for method in ("kmeans", "kmeans:importance=true")
    }
    assert found["kmeans:importance=true"].sqnr(optimize=True) > found["kmeans"].sqnr(optimize=True) + 6
    assert found["kmeans:importance=true"].plan.tensors["w"].features_from == ("x",)
    assert found["kmeans"].plan.tensors["w"].features_from == ()
    with pytest.raises(RecipeError, match="a codebook has no method"):
        quantize_text(graph, feeds, format="weight-only", weights="codebook(3),method=gptq")


def test_a_weight_of_four_bits_that_two_scopes_read():
    body = (
        "m = MatMul (x, w) y = If (c) <then_branch = t () => (float[?,96] p) { p = MatMul (x, w) },"
        " else_branch = e () => (float[?,96] q) { q = Neg (m) }>"
    )
    model = model_from_text(text(body, "float[5,72] x, bool c", "float[?,96] y", "float[72,96] w", opset=25))
    feeds = {"x": np.ones((5, 72), np.float32), "c": np.array(True)}
    report = onnxq.quantize(model, calibration=[feeds], format="weight-only", weights="codebook(4)", check=False)
    assert {entry.reason.code for entry in report.plan.decisions if entry.op == "MatMul"} == {"weights"}
    before, after = (run_model(each, feeds)["y"] for each in (model, report.model))
    np.testing.assert_allclose(after, before, atol=0.2 * np.abs(before).max())
