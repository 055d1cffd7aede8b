"""The CUDA target: what is written must be what its provider has kernels for; numbers are checked on the CPU's."""

import numpy as np
import onnx_ir as ir
import onnxq
import pytest
from onnxq.errors import RecipeError
from onnxq.types.plan import Action
from tests.support.quantizing import quantize_text, text

# Of onnxruntime's CUDA provider (docs/OperatorKernels.md of onnxruntime 1.31), with int8 or float32 where it matters.
KERNELS = {"Abs", "Add", "Cast", "Clip", "Div", "Max", "Min", "Mul", "ReduceMax", "ReduceMin", "Round", "Sub"} | {
    "DequantizeLinear",
    "Gather",
    "MatMulInteger",
    "QuantizeLinear",
    "Transpose",
}
MODEL = text(
    "e = Gather (t, i) a = MatMul (e, w) y = Gemm <alpha = 0.5, transB = 1> (a, v, b)",
    "int64[7] i",
    "float[7,512] y",
    "float[512,64] t, float[64,96] w, float[512,96] v, float[512] b",
)


@pytest.mark.parametrize("granularity", ["per-tensor", "per-token"])
def test_only_operators_with_kernels_are_written(granularity):
    activations = {"granularity": granularity}
    done = quantize_text(MODEL, {"i": np.arange(7)}, target="cuda", format="dynamic", activations=activations)
    assert {entry.action for entry in done.plan.decisions} == {Action.QUANTIZE}
    assert {node.op_type for node in done.model.graph} <= KERNELS
    for node in done.model.graph:
        if node.op_type == "MatMulInteger":
            assert [value.dtype for value in node.inputs] == [ir.DataType.INT8, ir.DataType.INT8]
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


def test_asymmetric_schemes_are_refused():
    source = text("y = MatMul (x, w)", "float[5,64] x", "float[5,6] y", "float[64,6] w")
    for activations, said in (
        ({"symmetric": False}, "no kernel for asymmetric activations; take symmetric"),
        ({"dtype": "uint8"}, "no kernel for uint8 activations; take int8"),
    ):
        with pytest.raises(RecipeError, match=f"'MatMul_0'.* {said}"):
            quantize_text(source, target="cuda", format="dynamic", activations=activations)
    with pytest.raises(RecipeError, match=r"'MatMul_0'.* on target cuda: .*symmetric"):
        quantize_text(source, target="cuda", format="dynamic", weights={"symmetric": False})


@pytest.mark.parametrize(
    ("options", "advice"),
    [({"format": "qdq"}, "--target tensorrt"), ({"format": "qoperator"}, "format dynamic or weight-only")],
)
def test_formats_that_it_has_no_kernels_for_are_refused_with_what_would_do(options, advice):
    source = text("y = MatMul (x, w)", "float[5,64] x", "float[5,6] y", "float[64,6] w")
    with pytest.raises(RecipeError, match=advice):
        quantize_text(source, target="cuda", **options)


def test_convolutions_are_sent_to_tensorrt_or_float16():
    source = text("y = Conv (x, w)", "float[1,8,6,6] x", "float[1,4,4,4] y", "float[4,8,3,3] w")
    done = quantize_text(source, target="cuda", format="dynamic")
    (entry,) = done.plan.decisions
    assert entry.action is Action.KEEP
    assert "--target tensorrt" in entry.reason.text
    assert "--float-type float16" in entry.reason.text


@pytest.mark.parametrize("dtype", ["uint4", "int8"])
def test_weights_alone_become_matmulnbits(dtype):
    source = text("y = MatMul (x, w)", "float[5,64] x", "float[5,96] y", "float[64,96] w", opset=21)
    done = quantize_text(source, target="cuda", format="weight-only", weights={"dtype": dtype})
    assert [node.op_type for node in done.model.graph] == ["MatMulNBits"]
    assert done.sqnr(optimize=False) > 15


def test_two_bits_have_no_kernel_there():
    source = text("y = MatMul (x, w)", "float[5,64] x", "float[5,96] y", "float[64,96] w", opset=25)
    with pytest.raises(RecipeError, match="take int3 or int4 or int8 or uint4 or uint8"):
        quantize_text(source, target="cuda", format="weight-only", weights={"dtype": "uint2"})


def test_a_report_says_that_the_model_was_not_run_there():
    model = quantize_text(text("y = MatMul (x, w)", "float[5,64] x", "float[5,6] y", "float[64,6] w")).float_model
    report = onnxq.quantize(model, target="cuda", format="dynamic")
    assert any("CUDAExecutionProvider" in warning for warning in report.warnings)
