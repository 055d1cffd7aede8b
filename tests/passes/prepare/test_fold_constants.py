import tracemalloc

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.tensors import total_bytes

X = {"x": np.array([[1, -2, 3, -4]], np.float32)}


def ops(model):
    return [node.op_type for node in model.graph]


def give(model, **arrays):
    """Make values that are read and made by nothing initializers."""
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in arrays:
                if value.name not in model.graph.initializers:
                    value.const_value = ir.tensor(arrays[value.name], name=value.name)
                    value.shape, value.dtype = ir.Shape(arrays[value.name].shape), value.const_value.dtype
                    model.graph.register_initializer(value)
                node.replace_input_with(index, model.graph.initializers[value.name])
    return model


def test_folds_what_depends_on_no_input(apply, same, model_of):
    model = model_of(
        """g (float[1,4] x) => (float[1,4] y) <float[4] a = {1,2,3,4}, float[4] b = {5,6,7,8}>
           { c = Mul (a, b)  d = Sqrt (c)  y = Add (x, d) }"""
    )
    before = model.clone()
    assert apply(model, "fold-constants")
    assert ops(model) == ["Add"]
    same(before, model, X)
    assert not apply(model, "fold-constants")


def test_what_it_makes_is_an_initializer(apply, same, model_of):
    model = model_of("g (float[1,4] x) => (float[A,B] y) { s = Shape (x)  y = Reshape (x, s) }")
    before = model.clone()
    assert apply(model, "fold-constants")
    assert "Constant" not in ops(model)
    same(before, model, X)


def test_notes_nothing_in_the_model(apply, model_of):
    model = model_of(
        "g (float[1,4] x) => (float[1,4] y) <float[4] a = {1,2,3,4}> { c = Neg (a)  d = Sqrt (c)  y = Add (x, d) }"
    )
    apply(model, "fold-constants")
    values = [*model.graph.initializers.values(), *(value for node in model.graph for value in node.outputs)]
    assert [dict(value.metadata_props) for value in values] == [{}] * len(values)


def test_a_big_weight_reaches_its_operator(apply, same, model_of):
    model = model_of(
        """g (float[1,4] x) => (float[A,B] y) <int64[2] s = {4, 5000}>
           { t = Transpose <perm = [1, 0]> (w)  m = Mul (t, k)  r = Reshape (m, s)  y = MatMul (x, r) }"""
    )
    give(model, w=np.ones((5000, 4), np.float32), k=np.full((4, 5000), 2, np.float32))
    before = model.clone()
    size = total_bytes(model)
    assert apply(model, "fold-constants")
    assert ops(model) == ["MatMul"]
    assert total_bytes(model) < size
    same(before, model, X)


@pytest.mark.parametrize("node", ["Expand (k, s)", "Tile (k, s)", "Mul (column, row)"])
def test_the_model_does_not_grow(apply, same, model_of, node):
    model = model_of(
        f"""g (float[1,4] x) => (float y) <float[1,1] k = {{2}}, int64[2] s = {{300, 400}}>
           {{ e = {node}  r = ReduceMax <keepdims = 0> (e)  y = Mul (x, r) }}"""
    )
    give(model, column=np.ones((300, 1), np.float32), row=np.ones((1, 400), np.float32))
    model.graph.outputs[0].shape = None
    before = model.clone()
    size = total_bytes(model)
    apply(model, "fold-constants")
    assert total_bytes(model) <= size
    same(before, model, X)


def test_what_would_be_too_big_is_not_even_computed(apply, model_of):
    model = model_of(
        """g (float[1,4] x) => (float y) <float[1,1] k = {2}, int64[2] s = {5000, 5000}>
           { e = Expand (k, s)  y = ReduceMax <keepdims = 0> (e) }"""
    )
    apply(model, "infer-shapes")  # which imports and fills caches
    tracemalloc.start()
    apply(model, "fold-constants")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "Expand" in ops(model)
    assert peak < 50_000_000  # the result has 100 MB


def test_a_weight_with_two_readers_is_not_stored_twice(apply, model_of):
    model = model_of(
        """g (float[1,4] x, int64[2] i) => (float[A,B] y, float[C,D] z)
           { t = Transpose <perm = [1, 0]> (w)  y = MatMul (x, t)  z = Gather (w, i) }"""
    )
    give(model, w=np.ones((5000, 4), np.float32))
    size = total_bytes(model)
    assert not apply(model, "fold-constants")
    assert total_bytes(model) == size


@pytest.mark.parametrize(
    "node", ["Bernoulli (p)", "RandomNormalLike (p)", "RandomUniform <shape = [4]> ()", "Dropout (p, r, t)"]
)
def test_what_is_drawn_at_random_is_drawn_anew_each_time(apply, model_of, node):
    model = model_of(
        f"""g (float[1,4] x) => (float[1,4] y)
            <float[4] p = {{0.5, 0.5, 0.5, 0.5}}, float r = {{0.5}}, bool t = {{1}}> {{ c = {node}  y = Add (x, c) }}"""
    )
    apply(model, "fold-constants")
    assert ops(model) == [node.split()[0], "Add"]


def test_a_dropout_that_does_nothing_goes(apply, same, model_of):
    model = model_of(
        "g (float[1,4] x) => (float[1,4] y) <float r = {0.5}, bool t = {0}> { d = Dropout (x, r, t)  y = Neg (d) }"
    )
    before = model.clone()
    assert apply(model, "fold-constants")
    apply(model, "remove-identities")
    apply(model, "remove-unused")
    assert ops(model) == ["Neg"]
    same(before, model, X)


def test_a_default_value_that_the_caller_may_override_is_no_constant(apply, same, model_of):
    model = model_of(
        "g (float[1,4] x, int64[2] s) => (float[A,B] y) <int64[2] s = {1, 4}> { r = Reshape (x, s)  y = Neg (r) }"
    )
    before = model.clone()
    apply(model, "fold-constants")
    assert ops(model) == ["Reshape", "Neg"]
    assert list(model.graph.initializers) == ["s"]
    same(before, model, X)
    same(before, model, X | {"s": np.array([2, 2])})


def test_splitting_into_a_sequence_stays_where_split_has_no_count(apply, same, model_of):
    text = """g (float[4,2] x) => (float[2,2] y) <int64 s = {2}, int64 i = {0}>
              { q = SplitToSequence (x, s)  y = SequenceAt (q, i) }"""
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
    for opset, folded in ((13, False), (18, True)):
        model = model_of(text, opset=opset)
        before = model.clone()
        apply(model, "fold-constants")
        assert ("Split" in ops(model)) is folded
        same(before, model, feeds, reference=False)


def test_splitting_where_the_split_is_computed_stays(apply, same, model_of):
    model = model_of(
        """g (float[4,2] x, int64 s) => (float[A,B] y) <int64 i = {0}>
           { q = SplitToSequence (x, s)  y = SequenceAt (q, i) }""",
        opset=18,
    )
    before = model.clone()
    apply(model, "fold-constants")
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(4, 2), "s": np.array(2)}
    same(before, model, feeds, reference=False)


def test_joining_a_sequence_stays_where_unsqueeze_has_no_input_for_axes(apply, same, model_of):
    model = model_of(
        """g (float[1,4] x) => (float[A,B,C] y)
           { q = SequenceConstruct (x, x)  y = ConcatFromSequence <axis = 0, new_axis = 1> (q) }""",
        opset=11,
    )
    before = model.clone()
    apply(model, "fold-constants")
    same(before, model, X, reference=False)


def test_quantized_weights_stay_quantized(apply, model_of):
    model = model_of(
        """g (float[1,4] x) => (float[1,4] y) <int8[4] q = {1,2,3,4}, float s = {0.5}>
           { w = DequantizeLinear (q, s)  y = Add (x, w) }"""
    )
    assert not apply(model, "fold-constants")


def test_a_cast_like_keeps_its_attributes(apply, model_of):
    model = model_of(
        """g (float[1,4] x) => (float8e4m3fn[1,4] y) <float8e4m3fn[0] like = {}>
           { y = CastLike <saturate = 0> (x, like) }""",
        opset=19,
        ir_version=9,
    )
    apply(model, "fold-constants")
    (node,) = model.graph
    assert node.attributes["saturate"].as_int() == 0
