import numpy as np
import onnx_ir as ir
from onnxq.graph.walk import nodes

X = {"x": np.array([1, -2], np.float32)}


def test_unnamed_nodes_are_called_by_operator_and_place(apply, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { a = Relu (x)  y = Neg (a) }")
    assert apply(model, "fix-names")
    assert [node.name for node in model.graph] == ["Relu_0", "Neg_1"]
    assert not apply(model, "fix-names")


def test_an_exported_name_is_kept_even_if_an_unnamed_node_before_it_would_take_it(apply, model_of):
    model = model_of(
        "g (float[2] x) => (float[2] y) { a = Relu (x)  [Relu_0] b = Relu (a)  [same] c = Neg (b)  [same] y = Abs (c) }"
    )
    apply(model, "fix-names")
    assert [node.name for node in model.graph] == ["Relu_0_2", "Relu_0", "same", "same_2"]


def test_nodes_of_subgraphs_get_names_too(apply, same, model_of):
    model = model_of(
        """g (float[2] x, bool c) => (float[2] y) {
             y = If (c) <then_branch = t () => (float[2] o) { o = Relu (x) },
                         else_branch = e () => (float[2] p) { p = Neg (x) }> }"""
    )
    before = model.clone()
    apply(model, "fix-names")
    assert [path for path, _ in nodes(model)] == ["If_0", "If_0/then_branch/Relu_0", "If_0/else_branch/Neg_0"]
    same(before, model, X | {"c": np.array(True)})


def test_graph_inputs_and_outputs_win_over_values_of_the_same_name(apply, same, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { a = Relu (x)  y = Neg (a) }")
    before = model.clone()
    model.graph[0].outputs[0].name = "y"
    apply(model, "fix-names")
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y"]
    assert model.graph[0].outputs[0].name not in ("x", "y")
    same(before, model, X)


def test_an_optional_output_that_is_left_out_stays_out(apply, same, model_of):
    model = model_of(
        """g (float[1,1,2] x) => (float[1,1,3] h) <float[1,3,2] w = {1,2,3,4,5,6}, float[1,3,3] r = {1,2,3,4,5,6,7,8,9}>
           { a, h = RNN <hidden_size = 3> (x, w, r) }"""
    )
    model.graph[0].outputs[0].name = ""
    before = model.clone()
    apply(model, "fix-names")
    assert list(ir.to_proto(model).graph.node[0].output) == ["", "h"]
    same(before, model, {"x": np.array([[[0.1, 0.2]]], np.float32)})
