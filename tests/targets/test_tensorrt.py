"""What is written for TensorRT keeps to its rules; numbers are checked with the optimizer off, on the CPU."""

import onnx_ir as ir
import pytest
from onnxq.errors import RecipeError
from onnxq.types.plan import Action
from tests.support.quantizing import quantize_text, text

BLOCK = text(
    "a = Conv <pads = [1, 1, 1, 1]> (x, v, b) r = Relu (a) c = Conv <pads = [1, 1, 1, 1]> (r, w, b) "
    "s = Add (c, x) t = Relu (s) p = GlobalAveragePool (t) f = Flatten (p) y = Gemm (f, g, h)",
    "float[1,8,6,6] x",
    "float[1,4] y",
    "float[8,8,3,3] v, float[8,8,3,3] w, float[8] b, float[8,4] g, float[4] h",
)


@pytest.fixture(scope="module")
def block():
    return quantize_text(BLOCK, target="tensorrt")


def producer(value):
    node = value.producer()
    return "" if node is None else node.op_type


def nodes(done, op):
    return [node for node in done.model.graph if node.op_type == op]


def test_everything_is_symmetric_int8(block):
    assert block.reasons()["Conv_0"] == "integer-kernel"
    for node in (*nodes(block, "QuantizeLinear"), *nodes(block, "DequantizeLinear")):
        zero_point = node.inputs[2] if len(node.inputs) > 2 else None
        if zero_point is not None:
            assert zero_point.dtype == ir.DataType.INT8
            assert not zero_point.const_value.numpy().any()


def test_weights_have_a_scale_for_each_channel_and_biases_stay_in_float(block):
    for conv in nodes(block, "Conv"):
        dequantize = conv.inputs[1].producer()
        assert dequantize.op_type == "DequantizeLinear"
        assert dequantize.inputs[1].const_value.shape == (8,)
        assert conv.inputs[2].const_value.dtype == ir.DataType.FLOAT
    (gemm,) = nodes(block, "Gemm")
    assert gemm.inputs[2].const_value.dtype == ir.DataType.FLOAT


def test_nothing_stands_between_what_tensorrt_fuses(block):
    first, second = nodes(block, "Relu")
    (add,) = nodes(block, "Add")
    assert producer(first.inputs[0]) == "Conv"
    assert [use.node.op_type for use in first.outputs[0].uses()] == ["QuantizeLinear"]
    assert producer(second.inputs[0]) == "Add"
    assert sorted(producer(value) for value in add.inputs) == ["Conv", "DequantizeLinear"]


def test_every_weighted_node_reads_codes(block):
    for node in (*nodes(block, "Conv"), *nodes(block, "Gemm")):
        sources = {producer(value) for value in node.inputs[:2]}
        assert sources <= {"DequantizeLinear", "Flatten"}
    assert block.sqnr(optimize=False) > 25


def test_the_residual_branch_alone_is_quantized(block):
    decision = block.decision("Add_3")
    assert decision.action is Action.QUANTIZE
    assert list(decision.inputs) == [1]


@pytest.mark.parametrize(
    ("form", "advice"), [("qoperator", "format qdq"), ("dynamic", "target cuda"), ("weight-only", "float16")]
)
def test_other_formats_are_refused_with_what_would_do(form, advice):
    with pytest.raises(RecipeError, match=advice):
        quantize_text(BLOCK, target="tensorrt", format=form)


def test_zero_points_are_refused():
    source = text("y = MatMul (x, w)", "float[5,64] x", "float[5,6] y", "float[64,6] w")
    with pytest.raises(RecipeError, match="symmetric"):
        quantize_text(source, target="tensorrt", activations={"symmetric": False})
    with pytest.raises(RecipeError, match=r"'MatMul_0'.* TensorRT has no zero points; set `symmetric: true`"):
        quantize_text(source, target="tensorrt", weights={"symmetric": False})
