"""A small convolution and pictures for it."""

import numpy as np

NET = """
<ir_version: 9, opset_import: ["" : 17], producer_name: "tests">
net (float[N,3,16,16] image) => (float[N,10] scores)
<float[16,3,3,3] w0, float[16] b0, float[10,16] w1, float[10] b1>
{
  [conv] c = Conv <pads = [1,1,1,1]> (image, w0, b0)
  [relu] r = Relu (c)
  [tanh] t = Tanh (r)
  [pool] p = GlobalAveragePool (t)
  [flatten] f = Flatten (p)
  [gemm] scores = Gemm <transB = 1> (f, w1, b1)
}
"""


def images(count: int = 8) -> np.ndarray:
    """Normally distributed pictures, float32 [count, 3, 16, 16]."""
    return np.random.default_rng(0).standard_normal((count, 3, 16, 16)).astype(np.float32)
