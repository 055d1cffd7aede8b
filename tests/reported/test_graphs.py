"""Reported about graphs: constants, names, inputs and outputs in unusual places, shapes wrong, empty or free."""

from dataclasses import replace

import numpy as np
import onnx
import onnxq
import pytest
from onnxq.errors import ModelError
from onnxq.pipeline import judging
from tests.support.end_to_end import FORMATS, normal, quantize, with_weights

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
TWO = f"{HEAD} g (float[4,32] x) => (float[4,16] y) {{ a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, v) }}"
X = {"x": normal(4, 32)}


def two():
    return with_weights(TWO, w=normal(32, 64, seed=1), v=normal(64, 16, seed=2))


@pytest.mark.parametrize("form", FORMATS)
def test_weights_in_constant_nodes(form):
    model = two()
    for each in model.graph.initializer:
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [each.name], value=each))
    del model.graph.initializer[:]
    done = quantize(model, X, form)
    assert len([name for name in done.quantized() if "MatMul" in name]) == 2
    assert done.at_least(28)
    assert sum(len(each.raw_data) for each in done.model.graph.initializer) < 32 * 64 * 2


@pytest.mark.parametrize("form", FORMATS)
def test_initializers_listed_as_inputs(form):
    model = two()
    model.ir_version = 3
    for each in model.graph.initializer:
        model.graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, list(each.dims)))
    done = quantize(model, X, form)
    assert len([name for name in done.quantized() if "MatMul" in name]) == 2
    assert done.at_least(28)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("names", [["", "", ""], ["same", "same", "same"], ["MatMul_2", "", "MatMul_0"]], ids=str)
def test_names_of_nodes_that_are_empty_or_come_twice(form, names):
    model = two()
    for node, name in zip(model.graph.node, names, strict=True):
        node.name = name
    done = quantize(model, X, form, reference=two())  # the runtime itself refuses names that come twice
    assert len(done.quantized()) >= 2
    assert done.at_least(28)
    made = [node.name for node in done.model.graph.node]
    assert all(made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize("form", FORMATS)
def test_nodes_out_of_order(form):
    model = two()
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    done = quantize(model, X, form)
    assert len([name for name in done.quantized() if "MatMul" in name]) == 2
    assert done.at_least(28)


@pytest.mark.parametrize("form", FORMATS)
def test_an_output_that_others_read_an_output_that_is_an_input_and_one_that_is_a_weight(form):
    model = with_weights(
        f"""{HEAD} g (float[4,32] x) => (float[4,64] a, float[4,16] y, float[4,32] x, float[64,16] v, float[4,64] r) {{
            a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, v) }}""",
        w=normal(32, 64, seed=1),
        v=normal(64, 16, seed=2),
    )
    done = quantize(model, X, form)
    assert "MatMul_0" in done.quantized()
    assert done.at_least(28)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_between_convolutions(form, mode):
    model = with_weights(
        f"""{HEAD} g (float[1,16,8,8] x) => (float[1,8,16,16] y) <float[4] scales = {{1, 1, 2, 2}}> {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w)  u = Resize <mode = "{mode}"> (a, , scales)
            y = Conv <pads = [1, 1, 1, 1]> (u, v) }}""",
        w=normal(8, 16, 3, 3, seed=1),
        v=normal(8, 8, 3, 3, seed=2),
    )
    done = quantize(model, {"x": normal(1, 16, 8, 8)}, form)
    assert {"Conv_0", "Conv_2"} <= set(done.quantized())
    assert done.at_least(25)


def test_operators_of_an_unknown_domain_stay_where_no_run_is_needed():
    model = with_weights(
        """<ir_version: 8, opset_import: ["" : 17, "acme" : 2]>
        g (float[4,64] x) => (float[4,32] y) { a = acme.Spin <turns = 3> (x)  y = MatMul (x, w)  b = acme.Spin (y) }""",
        w=normal(64, 32, seed=1),
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None))
    report = onnxq.quantize(model, format="dynamic", placement="everywhere", check=False)
    assert [node.op_type for node in report.model.graph.node if node.domain == "acme"] == ["Spin"]
    assert {entry.op: entry.reason.code for entry in report.plan.decisions}["acme::Spin"] == "no-kernel"
    with pytest.raises(ModelError, match="Spin"):
        onnxq.quantize(model, calibration=[{"x": normal(4, 64)}], format="qdq")


@pytest.mark.parametrize("form", FORMATS)
def test_outputs_declared_with_a_wrong_shape(form):
    model = two()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [4, 3, 2]))
    done = quantize(model, X, form)
    assert "MatMul_0" in done.quantized()
    assert done.at_least(28)


@pytest.mark.parametrize("form", FORMATS)
def test_extents_of_zero(form):
    model = with_weights(
        f"""{HEAD} g (float[4,32] x) => (float[4,16] y, float[0,32] none)
            <int64[1] zero = {{0}}, int64[1] four = {{4}}> {{
            none = Slice (x, four, four, zero)  both = Concat <axis = 0> (none, x)  y = MatMul (both, w) }}""",
        w=normal(32, 16, seed=1),
    )
    done = quantize(model, X, form)
    assert "MatMul_2" in done.quantized()
    assert done.at_least(30)


@pytest.mark.parametrize("form", FORMATS)
def test_no_extent_known_anywhere(form):
    model = with_weights(
        f"""{HEAD} g (float[A,B,C,D] x) => (float[E,F] y) {{
            a = Conv (x, w, b)  r = Relu (a)  s = Shape (r)  p = ReduceMean <axes = [2, 3], keepdims = 0> (r)
            y = MatMul (p, v) }}""",
        w=normal(16, 4, 3, 3, seed=1),
        b=normal(16, seed=2),
        v=normal(16, 32, seed=3),
    )
    feeds = [{"x": normal(n, 4, size, size, seed=size)} for n, size in ((1, 8), (2, 5), (1, 11))]
    done = quantize(model, feeds, form)
    assert "Conv_0" in done.quantized()
    assert done.at_least(25)


@pytest.mark.parametrize("form", FORMATS)
def test_optional_inputs_left_empty(form):
    model = with_weights(
        f"""{HEAD} g (float[5,2,16] x, float[1,2,32] h) => (float[5,1,2,32] y, float[5,1,2,32] z) {{
            n = Clip (x, , top)  y = LSTM <hidden_size = 32> (n, w, r, , , h)
            z = GRU <hidden_size = 32> (n, w3, r3, , , h) }}""",
        top=np.array(1.0, np.float32),
        w=normal(1, 128, 16, seed=1, scale=0.2),
        r=normal(1, 128, 32, seed=2, scale=0.2),
        w3=normal(1, 96, 16, seed=3, scale=0.2),
        r3=normal(1, 96, 32, seed=4, scale=0.2),
    )
    done = quantize(model, {"x": normal(5, 2, 16), "h": normal(1, 2, 32)}, form)
    assert {"LSTM_1", "GRU_2"} <= set(done.quantized())
    assert done.at_least(30)


def test_nodes_of_one_name_are_told():
    model = two()
    for node in model.graph.node:
        node.name = "same"
    done = quantize(model, X, "qdq", reference=two())
    (told,) = (text for text in done.report.warnings if "had the name of another" in text)
    assert told.startswith("2 nodes")
    assert "'same' is 'same_2' now, 'same' is 'same_3' now" in told
    assert done.at_least(28)


def test_names_that_differ_are_no_matter():
    model = two()
    for index, node in enumerate(model.graph.node):
        node.name = f"same_{index}" if index else ""
    assert not any("had the name of another" in text for text in quantize(model, X, "qdq").report.warnings)


@pytest.mark.parametrize(("speedup", "guard", "expected"), [(0.1, False, 1), (0.1, True, 0), (1.2, False, 0)])
def test_slower_without_a_guard_is_told(monkeypatch, speedup, guard, expected):
    real = judging.verify

    def verify(*args, **options):
        done = real(*args, **options)
        return replace(done, latency=replace(done.latency, float_ms=speedup, quantized_ms=1.0, speedup=speedup))

    monkeypatch.setattr(judging, "verify", verify)
    report = onnxq.quantize(two(), format="qdq", calibration=[X], guard=guard)
    told = [text for text in report.verification.warnings if text.startswith("slower than float")]
    assert len(told) == expected
    assert all("0.10x (1 ms, float 0.1 ms)" in text and "--no-guard" in text for text in told)
