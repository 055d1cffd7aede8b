import numpy as np
import pytest

RNG = np.random.default_rng(0)
X = {"x": RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)}
HEAD = "g (float[1,2,4,4] x) => (float[A,B,C,D] y) "
WEIGHTS = """<float[4,2,1,1] w = {1,-2,3,-4,5,-6,7,-8}, float[4] b = {1,2,3,4}, float[2,1,1] k = {2,-3},
              float[2,1,3,3] deep = {1,2,3,4,5,6,7,8,9,-1,-2,-3,-4,-5,-6,-7,-8,-9}, float[1] one = {1.5},
              float zero = {0}, float[1,1,4] row = {1,2,3,4}, float[1,1,1,1,1] five = {2}>"""
DEEP = "<group = 2, pads = [1,1,1,1]> (s, deep)"


@pytest.fixture
def push(apply):
    """Run the pass where it stands: behind shape inference."""

    def run(model):
        apply(model, "infer-shapes")
        return apply(model, "push-affine")

    return run


def ops(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize("bias", [", b", ""])
@pytest.mark.parametrize("made", ["Mul (r, k)", "Mul (k, r)", "Add (r, k)", "Sub (k, r)", "Div (r, k)", "Add (one, r)"])
def test_goes_into_a_convolution_without_padding(push, same, model_of, made, bias):
    model = model_of(f"{HEAD} {WEIGHTS} {{ r = Relu (x)  s = {made}  y = Conv (s, w{bias}) }}")
    before = model.clone()
    assert push(model)
    assert ops(model) == ["Relu", "Conv"]
    same(before, model, X)


def test_a_scale_goes_into_a_padded_convolution_with_groups(push, same, model_of):
    model = model_of(f"{HEAD} {WEIGHTS} {{ r = Relu (x)  s = Mul (r, k)  y = Conv {DEEP} }}")
    before = model.clone()
    assert push(model)
    assert ops(model) == ["Relu", "Conv"]
    same(before, model, X)


def test_an_offset_stays_before_a_padded_convolution_and_lets_its_scale_pass(push, same, model_of):
    model = model_of(f"{HEAD} {WEIGHTS} {{ r = Relu (x)  t = Mul (r, one)  s = Add (t, k)  y = Conv {DEEP} }}")
    before = model.clone()
    assert push(model)
    assert ops(model) == ["Relu", "Add", "Conv"]
    same(before, model, X)
    assert not push(model)


def test_goes_into_every_reader_at_once(push, same, model_of):
    two = "r = Relu (x)  t = Mul (r, one)  s = Add (t, one)  c = Conv (s, w)  d = Conv (s, w2, b)  y = Add (c, d)"
    model = model_of(f"{HEAD} {WEIGHTS.replace('>', ', float[4,2,1,1] w2 = {8,7,6,5,4,3,2,1}>')} {{ {two} }}")
    before = model.clone()
    assert push(model)
    assert ops(model) == ["Relu", "Conv", "Conv", "Add"]
    same(before, model, X)


@pytest.mark.parametrize(
    "body",
    [
        f"r = Relu (x)  s = Add (r, k)  y = Conv {DEEP}",  # zeros are added to what is padded afterwards
        'r = Relu (x)  s = Add (r, k)  y = Conv <group = 2, auto_pad = "SAME_UPPER"> (s, deep)',
        "r = Relu (x)  s = Mul (r, k)  c = Conv (s, w)  d = Conv (s, w)  y = Add (c, d)",  # a weight with two readers
        "s = Mul (x, k)  c = Conv (s, w)  d = ReduceMax (s)  y = Add (c, d)",  # a reader of another kind
        "s = Mul (x, row)  y = Conv (s, w)",  # a factor for each column
        "s = Mul (x, zero)  y = Conv (s, w)",
        "s = Mul (x, x)  y = Conv (s, w)",
        "r = ReduceMax <axes = [1]> (x)  s = Mul (r, k)  y = Conv (s, w)",  # one channel, repeated by the constant
    ],
)
def test_leaves_alone_what_is_not_for_it(push, same, model_of, body):
    model = model_of(f"{HEAD} {WEIGHTS} {{ {body} }}")
    before = model.clone()
    assert not push(model)
    same(before, model, X)


def test_leaves_alone_what_would_overflow(push, model_of):
    huge = WEIGHTS.replace("{2,-3}", "{1e38,1}")
    assert not push(model_of(f"{HEAD} {huge} {{ s = Mul (x, k)  y = Conv (s, w) }}"))
