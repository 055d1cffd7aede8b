import numpy as np
import onnx_ir as ir
import pytest

RNG = np.random.default_rng(0)
X = {"x": RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)}
HEAD = "g (float[1,2,4,4] x) => (float[A,B,C,D] y) "
WEIGHTS = """<float[4,2,1,1] w = {1,-2,3,-4,5,-6,7,-8}, float[4] b = {1,2,3,4},
              float[4,1,1] k = {2,-3,4,-5}, float[1] one = {1.5}>"""


def ops(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("bias", [", b", ""])
@pytest.mark.parametrize(
    "reader", ["Mul (c, k)", "Mul (k, c)", "Add (c, k)", "Sub (c, k)", "Sub (k, c)", "Div (c, k)", "Mul (c, one)"]
)
def test_folds_into_a_convolution(apply, same, model_of, reader, bias):
    model = model_of(f"{HEAD} {WEIGHTS} {{ c = Conv <pads = [1,1,1,1]> (x, w{bias})  y = {reader} }}")
    before = model.clone()
    assert apply(model, "fuse-affine")
    assert ops(model) == ["Conv"]
    assert model.graph.outputs[0].name == "y"
    same(before, model, X)


def test_folds_a_chain_and_keeps_the_convolutions_name(apply, same, model_of):
    model = model_of(f"{HEAD} {WEIGHTS} {{ [conv] c = Conv (x, w)  d = Mul (c, k)  e = Add (d, one)  y = Relu (e) }}")
    before = model.clone()
    assert apply(model, "fuse-affine")
    assert [(node.op_type, node.name) for node in model.graph] == [("Conv", "conv"), ("Relu", "")]
    same(before, model, X)
    assert not apply(model, "fuse-affine")


@pytest.mark.parametrize(("group", "shape"), [(1, "[2,4,1,1]"), (2, "[2,2,2,1]")])
def test_folds_into_a_transposed_convolution_with_groups(apply, same, model_of, group, shape):
    text = f"{HEAD} {WEIGHTS} {{ c = ConvTranspose <group = {group}> (x, w)  d = Mul (c, k)  y = Add (d, k) }}"
    model = model_of(text.replace("[4,2,1,1]", shape))
    before = model.clone()
    assert apply(model, "fuse-affine")
    assert ops(model) == ["ConvTranspose"]
    same(before, model, X, reference=group == 1)  # onnx.reference does not know groups here


@pytest.mark.parametrize(
    "body",
    [
        "c = Conv (x, w)  d = Neg (c)  e = Mul (c, k)  y = Add (d, e)",  # the result has another reader
        "c = Conv (x, w)  e = Mul (c, k)  d = Conv (x, w)  y = Add (d, e)",  # so has the weight
        "c = Conv (x, w)  y = Mul (c, row)",  # one factor for each column is none for each channel
        "c = Conv (x, w)  y = Mul (c, five)",  # the factor adds an axis
        "c = Conv (x, w)  y = Div (k, c)",  # not affine
        "c = Conv (x, w)  y = Div (c, zero)",
        "c = Conv (x, w)  y = Add (c, c)",
    ],
)
def test_leaves_alone_what_is_not_for_it(apply, same, model_of, body):
    more = ", float[4] row = {1,2,3,4}, float[1,1,4,1,1] five = {1,2,3,4}, float[1] zero = {0}>"
    model = model_of(
        f"{HEAD.replace('A,B,C,D', '')} {WEIGHTS.replace('>', more)} {{ {body} }}".replace("float[] y", "float y")
    )
    model.graph.outputs[0].shape = None
    assert not apply(model, "fuse-affine")


def test_a_factor_the_caller_may_override_is_no_constant(apply, model_of):
    model = model_of(f"{HEAD} {WEIGHTS} {{ c = Conv (x, w)  y = Mul (c, k) }}")
    model.graph.inputs.append(model.graph.initializers["k"])
    assert not apply(model, "fuse-affine")


def test_a_result_that_is_a_graph_output_stays(apply, model_of):
    model = model_of(f"{HEAD} {WEIGHTS} {{ c = Conv (x, w)  y = Mul (c, k) }}")
    model.graph.outputs.append(model.graph[0].outputs[0])
    assert not apply(model, "fuse-affine")


def test_the_weights_of_the_model_given_are_not_touched(apply, model_of):
    model = model_of(f"{HEAD} {WEIGHTS} {{ c = Conv (x, w)  y = Mul (c, k) }}")
    kept = model.graph.initializers["w"].const_value
    copy = model.clone()
    assert apply(copy, "fuse-affine")
    np.testing.assert_array_equal(kept.numpy().ravel(), [1, -2, 3, -4, 5, -6, 7, -8])
    assert isinstance(copy.graph.initializers["w"].const_value, ir.Tensor)
