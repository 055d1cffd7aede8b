import numpy as np
import onnx_ir as ir
import pytest


def shape_of(model, name):
    value = next(value for node in model.graph for value in node.outputs if value.name == name)
    return value.shape


def test_infers_shapes_and_types(apply, model_of):
    model = model_of(
        "g (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1,2,3,4,5,6,7,8}> { a = MatMul (x, w)  y = Relu (a) }"
    )
    assert apply(model, "infer-shapes")
    assert shape_of(model, "a") == ir.Shape(["N", 2])
    assert model.graph[0].outputs[0].dtype == ir.DataType.FLOAT
    assert not apply(model, "infer-shapes")


def test_a_stale_shape_of_a_weight_does_not_stop_it(apply, model_of):
    model = model_of(
        "g (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1,2,3,4,5,6,7,8}> { a = MatMul (x, w)  y = Relu (a) }"
    )
    model.graph.initializers["w"].shape = ir.Shape([2, 4])  # as left by an exporter that transposed the data only
    apply(model, "infer-shapes")
    assert shape_of(model, "a") == ir.Shape(["N", 2])
    assert model.graph.initializers["w"].shape == ir.Shape([4, 2])


def test_a_stale_shape_of_a_value_in_between_is_replaced(apply, model_of):
    model = model_of("g (float[N,4] x) => (float[N,4] y) <float[1,5,4] a> { a = Relu (x)  y = Neg (a) }")
    apply(model, "infer-shapes")
    assert shape_of(model, "a") == ir.Shape(["N", 4])


def test_one_node_that_cannot_be_inferred_does_not_cost_the_others_their_shapes(apply, model_of):
    model = model_of(
        """g (float[2,3] x) => (float[P,Q] y, float[2,3] z) <float[5,1] w = {1, 2, 3, 4, 5}>
           { a = Relu (x)  y = MatMul (a, w)  z = Neg (a) }"""
    )
    assert apply(model, "infer-shapes")
    assert shape_of(model, "a") == ir.Shape([2, 3])


def test_what_cannot_be_inferred_keeps_what_was_declared(apply, model_of):
    model = model_of(
        """<ir_version: 8, opset_import: ["" : 17, "custom" : 1]>
        g (float[2,3] x) => (float[2,7] y) <float[2,7] a> { a = custom.Thing (x)  y = Relu (a) }"""
    )
    apply(model, "infer-shapes")
    assert shape_of(model, "a") == ir.Shape([2, 7])
    assert model.graph[0].outputs[0].dtype == ir.DataType.FLOAT


def test_a_default_value_that_the_caller_may_override_is_no_constant(apply, model_of):
    model = model_of(
        "g (float[2,3] x, int64[2] s) => (float[A,B] y) <int64[2] s = {3, 2}> { r = Reshape (x, s)  y = Relu (r) }"
    )
    apply(model, "infer-shapes")
    assert [isinstance(dim, int) for dim in shape_of(model, "r")] == [False, False]
    np.testing.assert_array_equal(model.graph.initializers["s"].const_value.numpy(), [3, 2])
    assert [value.name for value in model.graph.inputs] == ["x", "s"]


def test_a_sequence_is_not_taken_for_a_tensor(apply, model_of):
    model = model_of(
        "g (float[2] x) => (float[A] y) <int64 i = {0}> { q = SequenceConstruct (x, x)  y = SequenceAt (q, i) }"
    )
    apply(model, "infer-shapes")
    assert str(model.graph[0].outputs[0].type) == "Sequence(Tensor(FLOAT))"


def test_a_wrong_declared_output_does_not_stop_it_and_is_replaced(apply, model_of):
    model = model_of("g (float[2,3] x) => (float[9,9,9] y) { a = Relu (x)  y = Neg (a) }")
    apply(model, "infer-shapes")
    assert shape_of(model, "a") == shape_of(model, "y") == ir.Shape([2, 3])


def test_big_weights_are_not_read(apply, model_of):
    model = model_of("g (float[N,4] x) => (float[A,B] y) <float[4,2] w = {1,2,3,4,5,6,7,8}> { y = MatMul (x, w) }")

    def read():
        pytest.fail("the weight was read")

    weight = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([4, 5 * 10**8]), name="w")
    model.graph.initializers["w"].const_value = weight
    apply(model, "infer-shapes")
    assert shape_of(model, "y") == ir.Shape(["N", 5 * 10**8])
