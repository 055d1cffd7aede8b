import numpy as np
import pytest

X = {"x": np.linspace(-5, 5, 24, dtype=np.float32).reshape(2, 12)}
WEIGHTS = "<float three = {3}, float six = {6}, float zero = {0}, float five = {5}>"
HEAD = "g (float[2,12] x) => (float[2,12] y) "
SWISH = "[a] s = Add (x, three)  [c] t = Clip (s, zero, six)  [m] u = Mul (x, t)  [d] y = Div (u, six)"


def ops(model):
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (SWISH, ["HardSigmoid", "Mul"]),
        (SWISH.replace("(x, three)", "(three, x)").replace("(x, t)", "(t, x)"), ["HardSigmoid", "Mul"]),
        ("s = Add (x, three)  t = Clip (s, zero, six)  u = Div (t, six)  y = Mul (x, u)", ["HardSigmoid", "Mul"]),
        ("s = Add (x, three)  t = Clip (s, zero, six)  y = Div (t, six)", ["HardSigmoid"]),
    ],
)
def test_fuses_what_exporters_write(apply, same, model_of, body, expected):
    model = model_of(f"{HEAD} {WEIGHTS} {{ {body} }}")
    before = model.clone()
    assert apply(model, "fuse-hard-swish")
    assert ops(model) == expected
    assert model.graph.outputs[0].name == "y"
    same(before, model, X)


def test_keeps_the_name_of_the_last_part(apply, model_of):
    model = model_of(f"{HEAD} {WEIGHTS} {{ {SWISH} }}")
    apply(model, "fuse-hard-swish")
    assert [node.name for node in model.graph if node.op_type == "Mul"] == ["d"]


@pytest.mark.parametrize(
    "body",
    [
        SWISH.replace("(s, zero, six)", "(s, zero, five)"),
        SWISH.replace("(x, three)", "(x, five)"),
        SWISH.replace("(u, six)", "(u, five)"),
        SWISH.replace("(s, zero, six)", "(s, zero)"),
        SWISH.replace("[d] y = Div (u, six)", "[d] v = Div (u, six)  y = Add (v, t)"),  # t is read elsewhere
    ],
)
def test_leaves_alone_what_is_not_for_it(apply, model_of, body):
    assert not apply(model_of(f"{HEAD} {WEIGHTS} {{ {body} }}"), "fuse-hard-swish")


def test_leaves_alone_what_the_runtime_has_no_kernel_for(apply, model_of):
    double = f"{HEAD} {WEIGHTS} {{ {SWISH} }}".replace("float", "double")
    assert not apply(model_of(double), "fuse-hard-swish")


def test_leaves_alone_constants_that_add_axes(apply, model_of):
    wide = WEIGHTS.replace("float six = {6}", "float[1,1,1] six = {6}")
    assert not apply(
        model_of(f"{HEAD.replace('float[2,12] y', 'float[1,2,12] y')} {wide} {{ {SWISH} }}"), "fuse-hard-swish"
    )
