import numpy as np


def test_an_output_of_a_loop_body_that_is_its_input_gets_a_node(apply, same, model_of):
    model = model_of(
        """g (float[2] x) => (float[2] y) <int64 n = {2}, bool go = {1}> {
             y = Loop (n, go, x) <body = b (int64 i, bool c, float[2] s) => (bool d, float[2] t) {
               d = Identity (c)  t = Add (s, s) }> }"""
    )
    before = model.clone()
    (body,) = model.graph.subgraphs()
    body.remove(body[0])  # d becomes the input itself
    body.outputs[0] = body.inputs[1]
    assert apply(model, "fix-outputs")
    assert [node.op_type for node in body] == ["Add", "Identity"]
    same(before, model, {"x": np.array([1, -2], np.float32)}, reference=False)


def test_an_input_that_is_an_output_of_the_main_graph_keeps_its_name(apply, model_of):
    model = model_of("g (float[2] x) => (float[2] y, float[2] x) { y = Relu (x) }")
    assert not apply(model, "fix-outputs")
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["x", "y", "x"]
    assert model.graph.outputs[1] is model.graph.inputs[0]


def test_an_output_that_comes_twice_keeps_its_name(apply, model_of):
    model = model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    model.graph.outputs.append(model.graph.outputs[0])
    assert not apply(model, "fix-outputs")
    assert [value.name for value in model.graph.outputs] == ["y", "y"]
