import ml_dtypes
import numpy as np
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model


def test_types_that_numpy_lacks_go_in_and_out():
    model = model_from_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (bfloat16[N,3] x, float8e4m3fn[2] z) => (bfloat16[N,3] y, int4[N,3] i, float8e4m3fn[2] f)
        { y = Identity (x)  a = Cast <to = 1> (x)  i = Cast <to = 22> (a)  f = Identity (z) }"""
    )
    x = np.array([[1, -2, 3], [0, 4, -5]], ml_dtypes.bfloat16)
    z = np.array([448, -0.5], ml_dtypes.float8_e4m3fn)
    found = run_model(model, {"x": x, "z": z})
    assert found["y"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found["y"].astype(np.float32), x.astype(np.float32))
    assert found["i"].dtype == ml_dtypes.int4
    np.testing.assert_array_equal(found["i"].astype(int), [[1, -2, 3], [0, 4, -5]])
    np.testing.assert_array_equal(found["f"].view(np.uint8), z.view(np.uint8))


def test_an_empty_tensor_and_one_without_axes():
    model = model_from_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (bfloat16[N] x, bfloat16 s) => (bfloat16[N] y, bfloat16 t) { y = Identity (x)  t = Identity (s) }"""
    )
    feeds = {"x": np.zeros(0, ml_dtypes.bfloat16), "s": np.array(3, ml_dtypes.bfloat16)}
    found = run_model(model, feeds)
    assert (found["y"].shape, found["t"].shape, float(found["t"])) == ((0,), (), 3.0)
