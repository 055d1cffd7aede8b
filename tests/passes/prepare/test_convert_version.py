import numpy as np
import onnx_ir as ir
import pytest
from onnxq.passes import passes

X = {"x": np.array([[1, -2, 3]], np.float32)}
SQUEEZE = "g (float[1,3] x) => (float[3] y) { y = Squeeze <axes = [0]> (x) }"  # axes are an input from opset 13 on


def convert(model, opset=13):
    return passes.get("convert-version").make({"opset": opset})(model)


def test_raises_the_opset_and_rewrites_what_changed(same, model_of):
    model = model_of(SQUEEZE, opset=11, ir_version=6)
    result = convert(model)
    assert result.modified
    assert result.warnings == ()
    assert result.model.opset_imports == {"": 13}
    assert result.model.ir_version == 7
    assert "axes" not in result.model.graph[-1].attributes
    same(model, result.model, X)
    assert model.opset_imports == {"": 11}


@pytest.mark.parametrize("opset", [13, 17])
def test_a_model_that_is_new_enough_is_left_alone(model_of, opset):
    model = model_of("g (float[1,3] x) => (float[1,3] y) { y = Relu (x) }", opset=opset)
    result = convert(model)
    assert not result.modified
    assert result.model.opset_imports == {"": opset}


def test_softmax_keeps_its_meaning(same, model_of):
    """Before opset 13 it flattens all axes from `axis` on."""
    model = model_of("g (float[2,2,2] x) => (float[2,2,2] y) { y = Softmax <axis = 1> (x) }", opset=12)
    result = convert(model)
    assert result.modified
    same(model, result.model, {"x": np.arange(8, dtype=np.float32).reshape(2, 2, 2)})


def test_subgraphs_are_converted_too(same, model_of):
    model = model_of(
        """g (float[1,3] x, bool c) => (float[3] y) {
             y = If (c) <then_branch = t () => (float[3] o) { o = Squeeze <axes = [0]> (x) },
                         else_branch = e () => (float[3] p) { p = Squeeze <axes = [0]> (x) }> }""",
        opset=11,
    )
    result = convert(model)
    assert result.modified
    same(model, result.model, X | {"c": np.array(True)}, reference=False)


def test_an_operator_without_converter_makes_it_keep_the_old_opset_and_say_so(model_of):
    model = model_of("g (float[1,3] x) => (float[1,3] y) { y = ThresholdedRelu (x) }", opset=9)
    result = convert(model)
    assert not result.modified
    assert result.model.opset_imports == {"": 9}
    assert "opset 9 could not be raised to 13" in result.warnings[0]
    assert "ThresholdedRelu" in result.warnings[0]


def test_a_model_that_would_crash_the_converter_does_not_reach_it(model_of):
    model = model_of("g (float[1,3] x) => (float[3] y) { y = Squeeze (x) }", opset=11)
    model.graph[0].attributes["axes"] = ir.AttrString("axes", "")
    result = convert(model)
    assert not result.modified
    assert "Mismatched attribute type" in result.warnings[0]


def test_an_invalid_result_is_dropped(monkeypatch, same, model_of):
    """Whatever the converters make of a model, only what the checker accepts is kept."""
    from onnxscript import version_converter

    class Relabel(ir.passes.InPlacePass):
        def __init__(self, target, fallback):
            self.target = target

        def call(self, model):
            model.opset_imports[""] = self.target
            return ir.passes.PassResult(model, True)

    monkeypatch.setattr(version_converter, "ConvertVersionPass", Relabel)
    model = model_of(SQUEEZE, opset=11)
    result = convert(model)
    assert not result.modified
    assert "not valid" in result.warnings[0]
    same(model, result.model, X)


RESIZE = "g (float[1,1,3,4] x) => (float[A,B,C,D] y) <float[4] s = {%s}> { y = %s (x, s) }"
PICTURE = {"x": np.random.default_rng(0).standard_normal((1, 1, 3, 4)).astype(np.float32)}


@pytest.mark.parametrize(
    ("opset", "node", "scales"),
    [
        (9, 'Upsample <mode = "linear">', "1, 1, 1.5, 2.5"),
        (9, 'Upsample <mode = "nearest">', "1, 1, 1.5, 2.5"),
        (10, 'Resize <mode = "linear">', "1, 1, 0.7, 2.5"),
        (10, 'Resize <mode = "nearest">', "1, 1, 1.6, 2.4"),
        (10, 'Resize <mode = "nearest">', "1, 1, 0.7, 0.6"),
    ],
)
def test_resize_samples_where_it_did(same, model_of, opset, node, scales):
    model = model_of(RESIZE % (scales, node), opset=opset)
    result = convert(model)
    assert result.modified
    same(model, result.model, PICTURE, reference=False)


def test_upsample_only_enlarges_even_where_its_scales_are_computed(same, model_of):
    model = model_of("g (float[1,1,3,4] x, float[4] s) => (float[A,B,C,D] y) { y = Upsample (x, s) }", opset=9)
    result = convert(model)
    assert result.modified
    same(model, result.model, PICTURE | {"s": np.array([1, 1, 1.5, 2.5], np.float32)}, reference=False)


def test_a_resize_whose_rounding_cannot_be_said_keeps_its_opset(same, model_of):
    model = model_of(RESIZE % ("1, 1, 0.7, 2.4", 'Resize <mode = "nearest">'), opset=10)
    model.graph[0].name = "up_and_down"
    result = convert(model)
    assert not result.modified
    assert "'up_and_down' enlarges one axis and shrinks another" in result.warnings[0]
    same(model, result.model, PICTURE, reference=False)


def test_a_stale_shape_does_not_stop_it(model_of):
    text = "g (float[1,3] x) => (float[1,3] y) <float[3,3] w = {1,2,3,4,5,6,7,8,9}> { a = MatMul (x, w)  y = Neg (a) }"
    model = model_of(text, opset=11)
    model.graph.initializers["w"].shape = ir.Shape([7])
    assert convert(model).modified


def test_names_types_and_texts_of_inputs_and_outputs_survive(model_of):
    model = model_of(SQUEEZE.replace("float[1,3] x", "float[N,3] x"), opset=11)
    model.graph.inputs[0].metadata_props["unit"] = "metre"
    model.graph.inputs[0].doc_string = "lengths"
    model.graph[0].name = "exported"
    result = convert(model)
    assert result.modified
    (value,) = [value for value in result.model.graph.inputs if not value.is_initializer()]
    assert (value.name, value.shape, value.doc_string) == ("x", ir.Shape(["N", 3]), "lengths")
    assert value.metadata_props == {"unit": "metre"}
    assert "exported" in [node.name for node in result.model.graph]


def test_big_weights_come_through(model_of):
    model = model_of(
        "g (float[1,3] x) => (float[1,3000] y) <float[3,3000] w> { y = MatMul (x, w) }".replace(
            "<float[3,3000] w>", ""
        ),
        opset=11,
    )
    weight = np.arange(9000, dtype=np.float32).reshape(3, 3000)
    value = model.graph[0].inputs[1]
    value.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(value)
    result = convert(model)
    assert result.modified
    np.testing.assert_array_equal(result.model.graph.initializers["w"].const_value.numpy(), weight)


def test_a_scan_with_a_batch_axis_keeps_its_opset(model_of):
    model = model_of(
        """g (float[1,3,2] x) => (float[1,3,2] y) {
             [old] y = Scan <body = b (float[2] a) => (float[2] o) { o = Relu (a) }, num_scan_inputs = 1> (, x) }""",
        opset=8,
    )
    result = convert(model)
    assert not result.modified
    assert "Scan of opset 8 has a batch axis" in result.warnings[0]
