"""Reported about types: float16 and float64 models, text, sequences and optionals, sparse weights."""

import numpy as np
import onnx
import onnxq
import pytest
from onnxq.runtime.session import run_model
from tests.support.end_to_end import FORMATS, normal, quantize, with_weights

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["float16", "double"])
def test_a_model_of_another_float_type_stays_as_it_is_and_says_why(form, kind):
    dtype = {"float16": np.float16, "double": np.float64}[kind]
    model = with_weights(
        f"{HEAD} g ({kind}[4,32] x) => ({kind}[4,16] y) {{ a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, v) }}",
        w=normal(32, 32, seed=1).astype(dtype),
        v=normal(32, 16, seed=2).astype(dtype),
    )
    done = quantize(model, {"x": normal(4, 32).astype(dtype)}, form)
    assert done.quantized() == []
    assert done.at_least(60)
    assert {done.reasons()[name] for name in ("MatMul_0", "MatMul_2")} == {"type"}
    assert "nothing was quantized" in " ".join(done.report.warnings)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["float16", "double"])
def test_the_float32_part_of_a_mixed_model_is_quantized(form, kind):
    dtype, code = {"float16": (np.float16, 10), "double": (np.float64, 11)}[kind]
    model = with_weights(
        f"""{HEAD} g (float[4,64] x) => ({kind}[4,16] y) {{
            a = MatMul (x, w)  c = Cast <to = {code}> (a)  y = MatMul (c, v) }}""",
        w=normal(64, 32, seed=1),
        v=normal(32, 16, seed=2).astype(dtype),
    )
    done = quantize(model, {"x": normal(4, 64)}, form)
    assert done.quantized() == ["MatMul_0"]
    assert done.reasons()["MatMul_2"] == "type"
    assert done.at_least(30)


@pytest.mark.parametrize("form", FORMATS)
def test_text_goes_beside_what_is_quantized(form):
    model = with_weights(
        f"{HEAD} g (float[2,64] x, string[2] words) => (float[2,16] y, string[2] out)"
        " { y = MatMul (x, w)  out = Identity (words) }",
        w=normal(64, 16, seed=1),
    )
    done = quantize(model, {"x": normal(2, 64), "words": np.array(["a", "b"], dtype=object)}, form)
    assert done.quantized() == ["MatMul_0"]
    assert done.at_least(30)


@pytest.mark.parametrize("form", FORMATS)
def test_sequences_and_optionals_between_quantized_nodes(form):
    model = with_weights(
        f"""{HEAD} g (float[4,64] x) => (float[4,16] y, seq(float[N,16]) parts) {{
            a = MatMul (x, w)  o = Optional (a)  b = OptionalGetElement (o)
            s = SequenceConstruct (a, b)  one = Constant <value_int = 1> ()  c = SequenceAt (s, one)
            parts = SequenceInsert (s, c)  y = MatMul (c, v) }}""",
        w=normal(64, 16, seed=1),
        v=normal(16, 16, seed=2),
    )
    done = quantize(model, {"x": normal(4, 64)}, form)
    assert "MatMul_0" in done.quantized()
    assert done.at_least(28)


@pytest.mark.parametrize("form", FORMATS)
def test_a_sequence_of_tensors_of_several_shapes_is_judged_by_all_of_them(form, tmp_path):
    model = with_weights(
        f"""{HEAD} g (float[4,64] x) => (float[4,16] y, seq(float[4,N]) parts) {{
            y = MatMul (x, w)  lengths = Constant <value_ints = [6, 10]> ()
            parts = SplitToSequence <axis = 1> (y, lengths) }}""",
        w=normal(64, 16, seed=1),
    )
    feeds = {"x": normal(4, 64)}
    done = quantize(model, feeds, form, guard=True, prefer="size", check=True, min_sqnr=20)
    assert done.quantized() == ["MatMul_0"]
    before, after = (run_model(each, feeds)["parts"] for each in (model, done.model))
    assert [part.shape for part in after] == [(4, 6), (4, 10)]
    x, y = (np.concatenate(parts, axis=1).astype(np.float64) for parts in (before, after))
    decibels = 10 * np.log10(np.sum(x**2) / np.sum((x - y) ** 2))
    assert done.report.verification.outputs[1].sqnr_plain == pytest.approx(decibels, abs=0.5)
    files = [tmp_path / "float.onnx", tmp_path / "quantized.onnx"]
    for each, file in zip((model, done.model), files, strict=True):
        onnx.save(each, file)
    assert onnxq.compare(model, done.model, data=[feeds]).outputs[1].sqnr_plain == pytest.approx(decibels, abs=0.5)
    benched = onnxq.benchmark(files, data=[feeds], batch=[4], seconds=0.05)
    assert benched.rows[1].sqnr > 20


@pytest.mark.parametrize("form", FORMATS)
def test_sparse_weights(form):
    dense = normal(64, 16, seed=1) * (np.random.default_rng(2).random((64, 16)) < 0.2)
    model = with_weights(f"{HEAD} g (float[4,64] x) => (float[4,16] y) {{ y = MatMul (x, w) }}")
    places = np.flatnonzero(dense)
    model.graph.sparse_initializer.append(
        onnx.helper.make_sparse_tensor(
            onnx.numpy_helper.from_array(dense.reshape(-1)[places].astype(np.float32), "w"),
            onnx.numpy_helper.from_array(places, "w_indices"),
            [64, 16],
        )
    )
    done = quantize(model, {"x": normal(4, 64)}, form)
    assert done.quantized() == ["MatMul_0"]
    assert done.at_least(30)
