"""Operators that onnxruntime's CUDA provider computes in float16, from opset 13 on.

Read from its kernel table (docs/OperatorKernels.md of onnxruntime); not run.
"""

from __future__ import annotations

_MOVES = "Concat Expand Flatten Gather GatherElements GatherND Identity Pad Reshape Slice Split Squeeze Tile Transpose"
_ELEMENTWISE = "Abs Add Ceil Clip Div Elu Erf Floor LeakyRelu Max Min Mul Neg PRelu Relu Selu Sigmoid Softplus Sqrt Sub"
_PRODUCTS = "Conv ConvTranspose GRU Gemm LSTM MatMul"
_OTHERS = (
    "AveragePool BatchNormalization DepthToSpace GlobalAveragePool GlobalMaxPool InstanceNormalization "
    "LayerNormalization LogSoftmax MaxPool Softmax SpaceToDepth Tanh Unsqueeze Where com.microsoft::MatMulNBits"
)

FLOAT16 = frozenset(f"{_MOVES} {_ELEMENTWISE} {_PRODUCTS} {_OTHERS}".split())
