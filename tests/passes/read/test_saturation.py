"""Which products of a quantized model can saturate without VNNI: found in every form, with the right axes."""

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.graph.text import model_from_text
from onnxq.passes.read.saturation import saturating
from onnxq.runtime.saturation import adds_pairs
from onnxq.runtime.session import run_model
from onnxq.targets import targets
from tests.support.quantizing import quantize_model, text

AVX2, VNNI = targets.get("cpu-avx2"), targets.get("cpu-vnni")
PRODUCTS = {
    "conv": ("Conv (x, w)", "float[1,8,6,6] x", "float[16,8,3,3] w"),
    "matmul": ("MatMul (x, w)", "float[4,64] x", "float[64,16] w"),
    "gemm": ("Gemm <transB = 1> (x, w)", "float[4,64] x", "float[16,64] w"),
    "lstm": ("LSTM <hidden_size = 16> (x, w, r)", "float[3,1,20] x", "float[1,64,20] w, float[1,64,16] r"),
}
STATIC = [(name, form) for name in ("conv", "matmul", "gemm") for form in ("qdq", "qoperator")]
FORMS = [*STATIC, *((name, "dynamic") for name in ("matmul", "gemm", "lstm"))]


def made(name, form, **options):
    body, inputs, weights = PRODUCTS[name]
    options = {"format": form, "placement": "everywhere", "target": "cpu-vnni"} | options
    model = model_from_text(text(f"y = {body}", inputs, "float[] y", weights))
    rng = np.random.default_rng(3)
    for key, value in model.graph.initializers.items():
        value.const_value = ir.tensor(rng.standard_normal(value.shape.numpy()).astype(np.float32), name=key)
    return quantize_model(model, **options).model


def difference(one, two, feeds, *, optimize):
    first, second = (next(iter(run_model(model, feeds, optimize=optimize).values())) for model in (one, two))
    return float(np.abs(first - second).max() / np.abs(first).max())


@pytest.mark.parametrize("target", ["cpu-avx2", "cpu-vnni"])
@pytest.mark.parametrize(
    ("came", "form", "types"),
    [("qoperator", "qdq", "int8"), ("qdq", "qdq", "int8"), ("qdq", "qdq", "uint8"), ("qdq", "qoperator", "uint8")],
)
@pytest.mark.parametrize("name", ["conv", "matmul", "gemm"])
def test_imported_codes_are_chosen_again_where_they_would_saturate(name, came, form, types, target):
    """Also in the format that they came in: what is served is then what the graph says."""
    model = made(name, came, activations=types)
    report = onnxq.quantize(ir.to_proto(model), format=form, target=target, check=False, allow_empty=True)
    warnings = [warning for warning in report.warnings if "imported weights would saturate" in warning]
    changed = target == "cpu-avx2"
    assert len(warnings) == changed
    assert not list(saturating(ir.from_proto(report.model), targets.get(target)))
    feeds = {"x": np.random.default_rng(1).standard_normal(model.graph.inputs[0].shape.numpy()).astype(np.float32)}
    plain = made(name, "qdq", activations=types)  # the same numbers, in operators that are exact everywhere
    if form == "qdq" or changed or not adds_pairs():
        assert difference(plain, report.model, feeds, optimize=False) < 0.05
    if changed:
        assert difference(plain, report.model, feeds, optimize=False) > 0
        off, served = (next(iter(run_model(report.model, feeds, optimize=each).values())) for each in (False, True))
        assert np.abs(off - served).max() < 0.02 * np.abs(off).max()
        again = onnxq.quantize(report.model, format=form, target=target, check=False, allow_empty=True)
        assert again.model.SerializeToString() == report.model.SerializeToString(), "nothing is left to choose"


def stored(codes):
    """Return ONNX text of an int8 constant w."""
    return f"int8[{','.join(map(str, codes.shape))}] w = {{{','.join(map(str, codes.reshape(-1)))}}}"


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_codes_of_all_eight_bits_are_found_in_every_form(name, form):
    found = list(saturating(made(name, form), AVX2))
    assert len(found) == (2 if name == "lstm" else 1)
    assert all(entry.pairs > 0 for entry in found)
    assert not list(saturating(made(name, form), VNNI))


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_nothing_is_found_where_the_plan_kept_to_the_limit(name, form):
    """It would be, were the pairs counted along other axes than those that the plan went by."""
    assert not list(saturating(made(name, form, target="cpu-avx2"), AVX2))


@pytest.mark.parametrize(
    ("name", "form", "options", "expected"),
    [
        ("conv", "qdq", {"activations": "int8"}, 1),  # made uint8 when the model is loaded
        ("conv", "qoperator", {"activations": "int8"}, 0),
        ("matmul", "dynamic", {"activations": "int8,symmetric"}, 0),
        ("conv", "dynamic", {}, 0),
        ("conv", "dynamic", {"activations": "int8,symmetric", "weights": "uint8,asymmetric,per-tensor"}, 1),
        ("conv", "qdq", {"weights": "uint8,asymmetric"}, 0),
        ("matmul", "weight-only", {}, 0),
    ],
)
def test_types_decide(name, form, options, expected):
    assert len(list(saturating(made(name, form, **options), AVX2))) == expected


@pytest.mark.parametrize(("group", "expected"), [(8, 0), (1, 1)])
def test_depthwise_convolutions_add_no_pairs(group, expected):
    codes = np.full((8, 8 // group, 3, 3), 127, np.int8)
    weights = f"{stored(codes)}, float s = {{1.0}}, uint8 z = {{0}}, int8 v = {{0}}"
    body = f"y = QLinearConv <group = {group}> (x, s, z, w, s, v, s, z)"
    model = model_from_text(text(body, "uint8[1,8,6,6] x", "uint8[] y", weights))
    assert len(list(saturating(model, AVX2))) == expected


def test_what_is_found_really_saturates_here():
    """Against exact integer arithmetic, on a processor that adds pairs; on any other, nothing may differ."""
    rng = np.random.default_rng(0)
    for largest, expected in ((127, 1), (64, 0)):
        codes = rng.integers(-largest, largest + 1, (64, 16)).astype(np.int8)
        codes[:2, 0] = largest
        body, inputs = "y = MatMulInteger (x, w)", "uint8[4,64] x"
        model = model_from_text(text(body, inputs, "int32[4,16] y", stored(codes)))
        x = np.full((4, 64), 255, np.uint8)
        sums = run_model(model, {"x": x}, optimize=True)["y"]
        assert len(list(saturating(model, AVX2))) == expected
        assert np.array_equal(sums, x.astype(int) @ codes.astype(int)) is not (expected and adds_pairs())
