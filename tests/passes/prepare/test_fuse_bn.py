import numpy as np
import onnx_ir as ir
import pytest

RNG = np.random.default_rng(0)
CONV = "g (float[1,2,4,4] x) => (float[A,B,C,D] y) { c = Conv (x, w, b)  y = BatchNormalization (c, s, o, m, v) }"
X = {"x": RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)}


def weights(model, scope=None, **arrays):
    """Give a graph its initializers, and its nodes names."""
    graph = scope if scope is not None else model.graph
    for name, array in arrays.items():
        for reader in model.graph.all_nodes():
            for index, value in enumerate(reader.inputs):
                if value is not None and value.name == name and name not in graph.initializers:
                    value.const_value = ir.tensor(np.asarray(array), name=name)
                    value.shape = ir.Shape(np.shape(array))
                    value.dtype = value.const_value.dtype
                    graph.register_initializer(value)
                elif value is not None and value.name == name:
                    reader.replace_input_with(index, graph.initializers[name])
    for index, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{index}"
    return model


def norm(channels, dtype=np.float32):
    array = lambda: RNG.standard_normal(channels).astype(dtype)  # noqa: E731
    return {"s": array(), "o": array(), "m": array(), "v": np.abs(array()) + dtype(0.1)}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ops(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("node", "weight", "channels"),
    [
        ("Conv", (6, 2, 3, 3), 6),
        ("Conv <group = 2>", (6, 1, 3, 3), 6),
        ("ConvTranspose", (2, 3, 2, 2), 3),
        ("ConvTranspose <group = 2>", (2, 3, 2, 2), 6),
    ],
)
def test_fuses_into_convolutions(apply, same, model_of, *, node, weight, channels, bias):
    model = model_of(CONV.replace("Conv (x, w, b)", f"{node} (x, w, b)" if bias else f"{node} (x, w)"))
    weights(model, w=normal(*weight), **({"b": normal(channels)} if bias else {}), **norm(channels))
    before = model.clone()
    assert apply(model, "fuse-bn")
    assert ops(model) == [node.split()[0]]
    reference = node != "ConvTranspose <group = 2>"  # which onnx.reference does not know
    same(before, model, X, reference=reference, rtol=1e-4)


@pytest.mark.parametrize("bias", [(5,), (1,), (1, 5), (3, 5), ()])
@pytest.mark.parametrize("transposed", [0, 1])
def test_fuses_into_gemm_with_factors_and_a_bias_of_any_shape(apply, same, model_of, bias, transposed):
    model = model_of(
        f"""g (float[3,4] x) => (float[3,5] y) {{
              c = Gemm <alpha = 0.5, beta = 0.25, transB = {transposed}> (x, w, b)
              y = BatchNormalization (c, s, o, m, v) }}"""
    )
    weights(model, w=normal(*((5, 4) if transposed else (4, 5))), b=normal(*bias), **norm(5))
    before = model.clone()
    assert apply(model, "fuse-bn")
    assert ops(model) == ["Gemm"]
    same(before, model, {"x": normal(3, 4)}, rtol=1e-4)


def test_the_fused_node_keeps_its_name(apply, model_of):
    model = weights(model_of(CONV), w=normal(3, 2, 3, 3), b=normal(3), **norm(3))
    model.graph[0].name = "exported"
    apply(model, "fuse-bn")
    assert [node.name for node in model.graph] == ["exported"]


def test_an_empty_bias_slot_is_no_bias(apply, same, model_of):
    model = weights(model_of(CONV), w=normal(3, 2, 3, 3), b=normal(3), **norm(3))
    model.graph[0].replace_input_with(2, None)
    del model.graph.initializers["b"]
    before = model.clone()
    assert apply(model, "fuse-bn")
    assert ops(model) == ["Conv"]
    same(before, model, X, rtol=1e-4)


def test_statistics_of_the_batch_are_not_fused(apply, model_of):
    training = "y = BatchNormalization <training_mode = 1> (c, s, o, m, v)"
    model = weights(
        model_of(CONV.replace("y = BatchNormalization (c, s, o, m, v)", training)),
        w=normal(3, 2, 3, 3),
        b=normal(3),
        **norm(3),
    )
    assert not apply(model, "fuse-bn")
    assert ops(model) == ["Conv", "BatchNormalization"]


def test_one_that_may_be_fused_does_not_take_along_one_that_may_not(apply, model_of):
    model = model_of(
        """g (float[1,2,4,4] x) => (float[A,B,C,D] y) {
             c = Conv (x, w)  n = BatchNormalization (c, s, o, m, v)
             d = Conv (n, u)  y = BatchNormalization <training_mode = 1> (d, s, o, m, v) }"""
    )
    weights(model, w=normal(3, 2, 1, 1), u=normal(3, 3, 1, 1), **norm(3))
    assert apply(model, "fuse-bn")
    assert ops(model) == ["Conv", "Conv", "BatchNormalization"]


def test_before_opset_14_more_outputs_mean_training(apply, model_of):
    text = CONV.replace("y = Batch", "y, m2, v2, sm, sv = Batch")
    model = weights(model_of(text, opset=13), w=normal(3, 2, 3, 3), b=normal(3), **norm(3))
    assert not apply(model, "fuse-bn")


def test_types_are_not_mixed(apply, model_of):
    """From opset 15 on the statistics of a float16 model may be float32."""
    model = weights(
        model_of(CONV.replace("float[", "float16[")),
        w=normal(3, 2, 3, 3).astype(np.float16),
        b=normal(3).astype(np.float16),
        **norm(3),
    )
    assert not apply(model, "fuse-bn")


def test_a_weight_that_another_node_reads_stays_as_it_is(apply, same, model_of):
    text = CONV.replace("y = Batch", "d = Conv (x, w)  y = Batch").replace(
        "(float[A,B,C,D] y)", "(float[A,B,C,D] y, float[E,F,G,H] d)"
    )
    model = weights(model_of(text), w=normal(3, 2, 3, 3), b=normal(3), **norm(3))
    before = model.clone()
    assert not apply(model, "fuse-bn")
    same(before, model, X)


def test_a_result_that_another_node_reads_stays(apply, model_of):
    text = CONV.replace("y = Batch", "d = Neg (c)  y = Batch").replace(
        "(float[A,B,C,D] y)", "(float[A,B,C,D] y, float[E,F,G,H] d)"
    )
    model = weights(model_of(text), w=normal(3, 2, 3, 3), b=normal(3), **norm(3))
    assert not apply(model, "fuse-bn")


def test_weights_of_an_outer_scope_stay_there(apply, same, model_of):
    model = model_of(
        """g (float[1,2,4,4] x, bool t) => (float[A,B,C,D] y) {
             k = Relu (x)
             y = If (t) <then_branch = f () => (float[A,B,C,D] p) {
                           c = Conv (k, w)  p = BatchNormalization (c, s, o, m, v) },
                         else_branch = e () => (float[A,B,C,D] q) { q = Conv (k, u) }> }"""
    )
    weights(model, w=normal(3, 2, 3, 3), u=normal(3, 2, 3, 3), **norm(3))
    before = model.clone()
    assert not apply(model, "fuse-bn")
    same(before, model, X | {"t": np.array(True)})
