"""Tensors of which calibration shows nothing, always 0 or never a value: they stay in float, named by a warning."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import VerificationError
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from tests.support.quantizing import quantize_model, text

RNG = np.random.default_rng(0)
LARGE = {"x": RNG.standard_normal((1, 8, 4, 4)).astype(np.float32) * 5}
SMALL = {"x": RNG.standard_normal((1, 8, 4, 4)).astype(np.float32) / 100}


def with_dead_relu(after: str = "q = Conv (r, v)", clamp: str = "r = Relu (p)") -> ir.Model:
    """Return a model whose first clamp gives 0 unless its input is large, and a convolution beside it."""
    model = model_from_text(
        text(
            f"p = Conv (x, w, b) {clamp} {after} s = Conv (x, u) y = Add (q, s)",
            "float[1,8,4,4] x",
            "float[1,8,4,4] y",
            "float[8,8,1,1] w, float[8] b, float[8,8,1,1] v, float[8,8,1,1] u",
        )
    )
    for name, scale in (("w", 0.3), ("v", 3), ("u", 0.001)):
        weight = np.random.default_rng(len(name) + ord(name)).standard_normal((8, 8, 1, 1)) * scale
        model.graph.initializers[name].const_value = ir.tensor(weight.astype(np.float32), name=name)
    model.graph.initializers["b"].const_value = ir.tensor(np.full(8, -1, np.float32), name="b")
    return model


@pytest.mark.parametrize("options", [{}, {"format": "qoperator"}, {"activations": "int8,symmetric"}], ids=str)
@pytest.mark.parametrize("after", ["q = Conv (r, v)", "q = Tanh (r)"])
@pytest.mark.parametrize("clamp", ["r = Relu (p)", "l = Constant <value_float = -0.0> () r = Clip (p, l)"])
def test_a_relu_that_calibration_saw_dead_lives_on(options, after, clamp):
    done = quantize_model(with_dead_relu(after, clamp), SMALL, placement="everywhere", **options)
    reasons = done.reasons()
    assert reasons["Conv_0"] == "always-zero"
    warning = next(each for each in done.plan.warnings if "'r'" in each)
    assert "'r' was 0 throughout calibration" in warning
    assert "samples in which it is not" in warning
    assert "quantize" in {entry.action for entry in done.plan.decisions}
    expected = run_model(done.float_model, LARGE)["y"].astype(np.float64)
    for optimize in (False, True):
        noise = expected - run_model(done.model, LARGE, optimize=optimize)["y"]
        # The other branch is clipped to its range of 1/100: it is small beside the one through the Relu.
        assert 10 * np.log10(np.sum(expected**2) / np.sum(noise**2)) > 15


def test_an_input_of_zeros_tells_nothing():
    model = model_from_text(text("y = MatMul (x, w)", "float[4,8] x", "float[4,8] y", "float[8,8] w"))
    with pytest.raises(VerificationError, match="'x' was 0 throughout calibration: what else it can be is not known"):
        onnxq.quantize(ir.to_proto(model), calibration=[{"x": np.zeros((4, 8), np.float32)}])


UNREACHED = "n = NonZero (x) t = Transpose <perm = [1, 0]> (n) c = Cast <to = 1> (t) y = MatMul (c, w)"


def unreached(rest: str = "", outputs: str = "float[N,8] y") -> onnx.ModelProto:
    """Return a model whose product has as many rows as the input has values that are not 0."""
    weights = "float[2,8] w, float[2,8] v"
    return ir.to_proto(model_from_text(text(UNREACHED + rest, "float[4,8] x, float[4,2] z", outputs, weights)))


FEEDS = [{"x": np.zeros((4, 8), np.float32), "z": np.float32(RNG.standard_normal((4, 2)))}]


def test_a_node_of_the_main_graph_that_calibration_never_reached_is_named():
    report = onnxq.quantize(
        unreached(" q = MatMul (z, v)", "float[N,8] y, float[4,8] q"), calibration=FEEDS, guard=False
    )
    (warning,) = (text for text in report.warnings if "'MatMul_3'" in text)
    assert "never held a value during calibration" in warning
    assert "calibrate with samples that give them some" in warning


def test_where_it_is_the_only_product_the_message_names_it_and_the_remedy():
    with pytest.raises(VerificationError) as caught:
        onnxq.quantize(unreached(), calibration=FEEDS)
    assert "'MatMul_3'" in str(caught.value)
    assert "tensor 'c' never held a value during calibration; calibrate with samples" in str(caught.value)


def test_an_output_without_values_is_not_called_exact(capsys):
    from onnxq.cli.show_report import report_parts
    from onnxq.cli.terminal import show

    proto = unreached(" q = MatMul (z, v)", "float[N,8] y, float[4,8] q")
    report = onnxq.quantize(proto, calibration=FEEDS, guard=False)
    empty, full = report.verification.outputs
    assert (empty.values, full.values) == (0, 32)
    assert any("output 'y' held no values in any sample" in text for text in report.warnings)
    show(*report_parts(report))
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["y"])
    assert "no values" in row
    assert "exact" not in row
