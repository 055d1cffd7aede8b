"""Reported about old and new opsets and IR versions, weights with a scale for each channel."""

import onnx
import pytest
from tests.support.end_to_end import FORMATS, normal, quantize, with_weights

NET = """<ir_version: {ir}, opset_import: ["" : {opset}]>
g (float[1,4,8,8] x) => (float[1,96] y) {{
    a = Conv (x, w, b)  r = Relu (a)  p = GlobalAveragePool (r)  f = Flatten (p)  y = Gemm (f, v, c) }}"""
X = {"x": normal(1, 4, 8, 8)}


def net(opset, ir):
    return with_weights(
        NET.format(opset=opset, ir=ir),
        w=normal(6, 4, 3, 3, seed=1),
        b=normal(6, seed=2),
        v=normal(6, 96, seed=3),
        c=normal(96, seed=4),
    )


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("opset", [7, 9, 10, 11, 12, 23, 24, 25, 26])
def test_any_opset_per_channel(form, opset):
    done = quantize(net(opset, 4 if opset < 12 else 10), X, form, weights="int8,symmetric,per-channel")
    assert done.at_least(25)
    assert {"Conv_0", "Gemm_4"} <= set(done.quantized())


@pytest.mark.parametrize("form", ["qdq", "weight-only"])
@pytest.mark.parametrize("ir", [3, 4, 7, 9, 10, 11, 12, 13])
def test_any_ir_version(form, ir):
    model = net(17, ir)
    if ir < 4:  # where initializers have to be inputs
        for each in model.graph.initializer:
            model.graph.input.append(onnx.helper.make_tensor_value_info(each.name, each.data_type, list(each.dims)))
    done = quantize(model, X, form)
    assert done.at_least(25)
    assert {"Conv_0", "Gemm_4"} <= set(done.quantized())
