import numpy as np

X = {"x": np.array([[-1, 2]], np.float32)}


def test_removes_dead_nodes_and_their_weights(apply, same, model_of):
    model = model_of("g (float[1,2] x) => (float[1,2] y) <float[2] w = {1, 2}> { d = Mul (x, w)  y = Relu (x) }")
    before = model.clone()
    assert apply(model, "remove-unused")
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert not model.graph.initializers
    same(before, model, X)


def test_leaves_a_clean_model_and_says_so(apply, model_of):
    model = model_of("g (float[1,2] x) => (float[1,2] y) { y = Relu (x) }")
    assert not apply(model, "remove-unused")


def test_says_modified_when_all_it_did_was_to_drop_an_optional_output(apply, same, model_of):
    model = model_of("g (float[1,2] x) => (float[1,2] y) { y, mask = Dropout (x) }")
    before = model.clone()
    assert apply(model, "remove-unused")
    assert len(model.graph[0].outputs) == 1
    same(before, model, X)


def test_removes_unused_initializers_of_subgraphs(apply, same, model_of):
    model = model_of(
        """g (float[1,2] x, bool c) => (float[1,2] y) {
             y = If (c) <then_branch = t () => (float[1,2] o) <float[2] w = {1, 2}> { o = Relu (x) },
                         else_branch = e () => (float[1,2] p) { p = Neg (x) }> }"""
    )
    before = model.clone()
    assert apply(model, "remove-unused")
    assert [len(graph.initializers) for graph in model.graph.subgraphs()] == [0, 0]
    same(before, model, X | {"c": np.array(True)})


def test_unused_inputs_stay(apply, model_of):
    model = model_of("g (float[1,2] x, float[3] unused) => (float[1,2] y) { y = Relu (x) }")
    assert not apply(model, "remove-unused")
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]


def test_drops_opset_imports_of_domains_nobody_uses(apply, model_of):
    model = model_of("g (float[1,2] x) => (float[1,2] y) { y = Relu (x) }", domains=', "ai.onnx.ml" : 2')
    assert apply(model, "remove-unused")
    assert model.opset_imports == {"": 17}
