import numpy as np
import onnx_ir as ir
import pytest

X = {"x": np.array([1, -2], np.float32)}


@pytest.mark.parametrize(
    "constant",
    ["Constant <value = float[2] {1, 2}> ()", "Constant <value = float {3}> ()", "Constant <value_float = 2.5> ()"],
)
def test_lifts_constants_of_any_size_and_form(apply, same, model_of, constant):
    model = model_of(f"g (float[2] x) => (float[2] y) {{ c = {constant}  y = Add (x, c) }}")
    before = model.clone()
    assert apply(model, "lift-constants")
    assert [node.op_type for node in model.graph] == ["Add"]
    assert list(model.graph.initializers) == ["c"]
    same(before, model, X)


def test_lifts_lists_of_integers(apply, same, model_of):
    model = model_of("g (float[2] x) => (float[2,1] y) { c = Constant <value_ints = [2, 1]> ()  y = Reshape (x, c) }")
    before = model.clone()
    assert apply(model, "lift-constants")
    assert not any(node.op_type == "Constant" for node in model.graph)
    same(before, model, X)


@pytest.mark.parametrize(("attribute", "value"), [("value_strings", ["é", "ü"]), ("value_string", "日本")])
def test_lifts_text_that_is_not_ascii(apply, model_of, attribute, value):
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    node = ir.node("Constant", [], attributes={attribute: value}, name="text")
    reader = ir.node("Identity", [node.outputs[0]], name="reader")
    model.graph.extend([node, reader])
    assert apply(model, "lift-constants")
    (tensor,) = [value.const_value for value in model.graph.initializers.values()]
    assert [text.decode() for text in tensor.string_data()] == ([value] if isinstance(value, str) else value)
    assert list(tensor.shape) == ([] if isinstance(value, str) else [2])


def test_lifts_in_subgraphs(apply, same, model_of):
    model = model_of(
        """g (float[2] x, bool c) => (float[2] y) {
             y = If (c) <then_branch = t () => (float[2] o) { k = Constant <value_float = 2.0> ()  o = Mul (x, k) },
                         else_branch = e () => (float[2] p) { p = Neg (x) }> }"""
    )
    before = model.clone()
    assert apply(model, "lift-constants")
    assert [list(graph.initializers) for graph in model.graph.subgraphs()] == [["k"], []]
    same(before, model, X | {"c": np.array(True)})


def test_a_constant_that_is_a_graph_output_stays(apply, model_of):
    model = model_of(
        "g (float[2] x) => (float[2] y, float[2] c) { c = Constant <value = float[2] {1, 2}> ()  y = Relu (x) }"
    )
    assert not apply(model, "lift-constants")
