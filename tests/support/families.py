"""One small model for each operator family that runs on codes."""

from dataclasses import dataclass

from tests.support.quantizing import text


@dataclass(frozen=True)
class Family:
    """A model whose nodes all run on codes.

    Attributes:
        text: ONNX text of the float model. kernels: the operators that its QOperator form must hold.
        weighted: whether it has weights with channels.
        per_channel_in_qdq: whether onnxruntime can run its QDQ form with weights per channel: in stacks of matrices it
            fuses the group and then refuses the scales.
    """

    text: str
    kernels: frozenset[str]
    weighted: bool
    per_channel_in_qdq: bool


def _family(body, inputs, output, weights, *kernels, per_channel_in_qdq=True):
    return Family(text(body, inputs, output, weights), frozenset(kernels), ", w" in body, per_channel_in_qdq)


_IMAGE, _IMAGES = "float[1,4,6,6] x", "float[1,4,6,6] x, float[1,4,6,6] z"

FAMILIES = {
    "conv-1d": _family(
        "y = Conv <pads = [1, 1]> (x, w, b)",
        "float[2,4,9] x",
        "float[2,6,9] y",
        "float[6,4,3] w, float[6] b",
        "QLinearConv",
    ),
    "conv-2d": _family(
        "y = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)",
        "float[2,4,8,8] x",
        "float[2,6,4,4] y",
        "float[6,4,3,3] w, float[6] b",
        "QLinearConv",
    ),
    "conv-3d": _family(
        "y = Conv (x, w)", "float[1,4,5,5,5] x", "float[1,6,3,3,3] y", "float[6,4,3,3,3] w", "QLinearConv"
    ),
    "conv-dilated": _family(
        "y = Conv <dilations = [2, 2]> (x, w, b)",
        "float[1,4,8,8] x",
        "float[1,6,4,4] y",
        "float[6,4,3,3] w, float[6] b",
        "QLinearConv",
    ),
    "depthwise": _family(
        "y = Conv <group = 8> (x, w, b)",
        "float[1,8,8,8] x",
        "float[1,8,6,6] y",
        "float[8,1,3,3] w, float[8] b",
        "QLinearConv",
    ),
    "grouped": _family(
        "y = Conv <group = 2> (x, w, b)",
        "float[1,8,8,8] x",
        "float[1,6,6,6] y",
        "float[6,4,3,3] w, float[6] b",
        "QLinearConv",
    ),
    "conv-relu": _family(
        "a = Conv (x, w, b) y = Relu (a)",
        "float[1,4,8,8] x",
        "float[1,6,6,6] y",
        "float[6,4,3,3] w, float[6] b",
        "QLinearConv",
    ),
    "conv-clip": _family(
        "a = Conv (x, w, b) y = Clip (a, lo, hi)",
        "float[1,4,8,8] x",
        "float[1,6,6,6] y",
        "float[6,4,3,3] w, float[6] b, float lo = {-0.5}, float hi = {1.0}",
        "QLinearConv",
    ),
    "matmul": _family(
        "m = MatMul (x, w) y = Transpose <perm = [1, 0]> (m)",
        "float[5,8] x",
        "float[6,5] y",
        "float[8,6] w",
        "QLinearMatMul",
        "Transpose",
    ),
    "matmul-to-float": _family(
        "y = MatMul (x, w)", "float[5,8] x", "float[5,6] y", "float[8,6] w", "MatMulIntegerToFloat"
    ),
    "matmul-3d": _family(
        "m = MatMul (x, w) y = Transpose <perm = [0, 2, 1]> (m)",
        "float[2,5,8] x",
        "float[2,6,5] y",
        "float[8,6] w",
        "QLinearMatMul",
        "Transpose",
    ),
    "matmul-batched": _family(
        "m = MatMul (x, w) y = Transpose <perm = [0, 2, 1]> (m)",
        "float[2,5,8] x",
        "float[2,6,5] y",
        "float[2,8,6] w",
        "QLinearMatMul",
        "Transpose",
        per_channel_in_qdq=False,
    ),
    "matmul-batched-to-float": _family(
        "y = MatMul (x, w)",
        "float[2,3,5,8] x",
        "float[2,3,5,6] y",
        "float[2,3,8,6] w",
        "MatMulIntegerToFloat",
        per_channel_in_qdq=False,
    ),
    "matmul-of-activations": _family(
        "m = MatMul (x, z) y = Transpose <perm = [0, 2, 1]> (m)",
        "float[2,5,8] x, float[2,8,6] z",
        "float[2,6,5] y",
        "",
        "QLinearMatMul",
        "Transpose",
    ),
    "gemm": _family(
        "m = Gemm (x, w, b) y = Transpose <perm = [1, 0]> (m)",
        "float[5,8] x",
        "float[6,5] y",
        "float[8,6] w, float[6] b",
        "QGemm",
        "Transpose",
    ),
    "gemm-transposed-to-float": _family(
        "y = Gemm <transB = 1> (x, w, b)", "float[5,8] x", "float[5,6] y", "float[6,8] w, float[6] b", "QGemm"
    ),
    "gemm-scaled": _family(
        "m = Gemm <alpha = 0.5, beta = 0.25, transB = 1> (x, w) y = Transpose <perm = [1, 0]> (m)",
        "float[5,8] x",
        "float[6,5] y",
        "float[6,8] w",
        "QGemm",
        "Transpose",
    ),
    "add": _family("y = Add (x, z)", _IMAGES, "float[1,4,6,6] y", "", "QLinearAdd"),
    "add-constant": _family("y = Add (x, c)", _IMAGE, "float[1,4,6,6] y", "float[4,1,1] c", "QLinearAdd"),
    "mul": _family("y = Mul (x, z)", _IMAGES, "float[1,4,6,6] y", "", "QLinearMul"),
    "sigmoid": _family("y = Sigmoid (x)", _IMAGE, "float[1,4,6,6] y", "", "QLinearSigmoid"),
    "leaky-relu": _family("y = LeakyRelu <alpha = 0.2> (x)", _IMAGE, "float[1,4,6,6] y", "", "QLinearLeakyRelu"),
    "softmax": _family("y = Softmax (x)", "float[3,10] x", "float[3,10] y", "", "QLinearSoftmax"),
    "softmax-inner": _family("y = Softmax <axis = 1> (x)", "float[3,10,4] x", "float[3,10,4] y", "", "QLinearSoftmax"),
    "concat": _family(
        "y = Concat <axis = 1> (x, z, c)", _IMAGES, "float[1,10,6,6] y", "float[1,2,6,6] c", "QLinearConcat"
    ),
    "average-pool": _family(
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)",
        _IMAGE,
        "float[1,4,6,6] y",
        "",
        "QLinearAveragePool",
    ),
    "average-pool-ceil": _family(
        "y = AveragePool <kernel_shape = [2], strides = [2], ceil_mode = 1> (x)",
        "float[1,4,7] x",
        "float[1,4,4] y",
        "",
        "QLinearAveragePool",
    ),
    "global-average-pool": _family(
        "y = GlobalAveragePool (x)", _IMAGE, "float[1,4,1,1] y", "", "QLinearGlobalAveragePool"
    ),
    "where": _family(
        "k = Greater (p, q) y = Where (k, x, z)",
        f"{_IMAGES}, float[6,6] p, float[6,6] q",
        "float[1,4,6,6] y",
        "",
        "QLinearWhere",
    ),
    "max-pool": _family(
        "y = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x)",
        _IMAGE,
        "float[1,4,3,3] y",
        "",
        "MaxPool",
    ),
    "moves": _family(
        "a = Conv (x, w) s = DepthToSpace <blocksize = 2> (a) f = Flatten (s) u = Unsqueeze (f, zero) "
        "t = Transpose <perm = [2, 0, 1]> (u) g = Gather (t, index) e = Expand (g, shape) r = Reshape (e, flat) "
        "c = Slice (r, zero, six) p, q = Split <axis = 0> (c) y = Concat <axis = 0> (p, q)",
        "float[1,4,5,5] x",
        "float[6] y",
        "float[4,4,2,2] w, int64[1] zero = {0}, int64[1] six = {6}, int64[3] index = {3, 1, 7}, "
        "int64[3] shape = {3, 2, 2}, int64[1] flat = {-1}",
        "QLinearConv",
        "DepthToSpace",
        "Flatten",
        "Unsqueeze",
        "Transpose",
        "Gather",
        "Expand",
        "Reshape",
        "Slice",
        "Split",
        "QLinearConcat",
    ),
    "more-moves": _family(
        'a = Conv (x, w) r = Resize <mode = "nearest"> (a, , scales) m = ReduceMax <axes = [2], keepdims = 1> (r) '
        "s = Squeeze (m, two) y = Tile (s, repeats)",
        "float[1,4,5,5] x",
        "float[1,8,8] y",
        "float[4,4,2,2] w, float[4] scales = {1.0, 1.0, 2.0, 2.0}, int64[1] two = {2}, int64[3] repeats = {1, 2, 1}",
        "QLinearConv",
        "Resize",
        "ReduceMax",
        "Squeeze",
        "Tile",
    ),
}
