"""Reported about quantization of training that exporters write out as arithmetic: it is named, not passed over."""

import numpy as np
import onnxq
import pytest
from tests.support.end_to_end import normal, with_weights

LOOKS = {
    "div-mul": "a = Div (x, s) r = Round (a) c = Clip (r, low, high) q = Mul (c, s)",
    "inverse": "a = Mul (x, i) r = Round (a) c = Clip (r, low, high) q = Div (c, i)",
    "zero-point": "a = Div (x, s) r = Round (a) p = Add (r, z) c = Clip (p, zero, top) d = Sub (c, z) q = Mul (d, s)",
}
OTHERS = {
    "rounding-alone": "q = Round (x)",
    "another-scale": "a = Div (x, s) r = Round (a) q = Mul (r, z)",
    "no-round": "a = Div (x, s) c = Clip (a, low, high) q = Mul (c, s)",
}


def model_with(body, scale):
    return with_weights(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[4,16] x) => (float[4,8] y) <float low = {{-127}},
        float high = {{127}}, float zero = {{0}}, float top = {{255}}, float z = {{128}}> {{
            {body} y = MatMul (q, w) }}""",
        w=normal(16, 8, seed=1),
        s=scale,
        i=1 / scale,
    )


@pytest.mark.parametrize(
    "scale", [np.float32(0.03), np.linspace(0.02, 0.04, 16, dtype=np.float32)], ids=["one", "many"]
)
@pytest.mark.parametrize("body", [*LOOKS, *OTHERS])
def test_what_looks_like_it_is_named_by_doctor_and_quantize(body, scale):
    model = model_with((LOOKS | OTHERS)[body], scale)
    named = [hazard.where for hazard in onnxq.doctor(model).hazards if hazard.code == "fake-quantization"]
    report = onnxq.quantize(model, calibration=[{"x": normal(4, 16)}], format="qdq", check=False, allow_empty=True)
    told = [text for text in report.warnings if "look like quantization" in text]
    assert (named, len(told)) == (([("Round_1",)], 1) if body in LOOKS else ([], 0))
