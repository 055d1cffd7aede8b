import numpy as np
import onnx_ir as ir

X = {"x": np.array([-1, 2], np.float32)}


def ops(model):
    return [node.op_type for node in model.graph]


def test_removes_an_identity_between_nodes(apply, same, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Identity (a)  y = Neg (b) }")
    before = model.clone()
    assert apply(model, "remove-identities")
    assert ops(model) == ["Relu", "Neg"]
    same(before, model, X)


def test_gives_a_removed_outputs_name_to_what_was_behind_it(apply, same, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { a = Relu (x)  y = Identity (a) }")
    before = model.clone()
    assert apply(model, "remove-identities")
    assert ops(model) == ["Relu"]
    assert model.graph.outputs[0].name == "y"
    same(before, model, X)


def test_keeps_the_only_node_between_input_and_output(apply, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { y = Identity (x) }")
    assert not apply(model, "remove-identities")
    assert ops(model) == ["Identity"]


def test_keeps_both_names_where_one_output_is_read_through_an_identity_by_another(apply, same, model_of):
    model = model_of("g (float[2] x) => (float[2] y1, float[2] y2) { y1 = Relu (x)  y2 = Identity (y1) }")
    before = model.clone()
    assert not apply(model, "remove-identities")
    assert [value.name for value in model.graph.outputs] == ["y1", "y2"]
    same(before, model, X)


def test_keeps_an_identity_that_hands_an_outer_value_out_of_a_subgraph(apply, same, model_of):
    model = model_of(
        """g (float[2] x, bool c) => (float[2] y) {
             a = Relu (x)
             y = If (c) <then_branch = t () => (float[2] o) { o = Identity (a) },
                         else_branch = e () => (float[2] p) { p = Neg (a) }> }"""
    )
    before = model.clone()
    assert not apply(model, "remove-identities")
    same(before, model, X | {"c": np.array(True)})


def test_declared_shapes_of_different_rank_do_not_stop_it(apply, same, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { a = Relu (x)  b = Identity (a)  y = Neg (b) }")
    before = model.clone()
    model.graph[0].outputs[0].shape = ir.Shape([2])
    model.graph[1].outputs[0].shape = ir.Shape([2, 3])
    assert apply(model, "remove-identities")
    assert ops(model) == ["Relu", "Neg"]
    same(before, model, X)
