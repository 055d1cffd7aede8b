"""Every emitter, every form of every operator with weights, per tensor and per channel: one table.

Each model is held against float with the optimizer off and as served, and against `onnx.reference`: itself where the
reference knows its operators, else its simulation, which is in operators of the standard.
"""

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.errors import RecipeError
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from onnxq.stages.prepare import prepare
from onnxq.stages.rewrite import simulate
from onnxq.types.plan import Action, Role
from tests.support.forms import FORMS
from tests.support.quantizing import quantize_model

EMITTERS = {
    "qdq": {"format": "qdq"},
    "qoperator": {"format": "qoperator"},
    "dynamic": {"format": "dynamic"},
    "weight-only": {"format": "weight-only"},
    "weight-only, portable": {"format": "weight-only", "portable": True},
}
NO_KERNEL = {  # of the operators that the forms begin with; these stay in float, and the plan says why
    "qdq": ("conv-transpose",),
    "qoperator": ("conv-transpose",),
    "dynamic": ("conv-transpose",),
    "weight-only": (),
    "weight-only, portable": (),
}
REFUSED = {  # weight-only, either way of writing it
    ("gather", "per-tensor"): "no kernel for per-tensor weights; take per-block or per-channel",
    ("gather-inner", "per-tensor"): "no kernel for per-tensor weights; take per-block or per-channel",
    ("gather-inner", "per-channel"): "only rows of a matrix are looked up on codes",
}
UNKNOWN = {  # to the reference: QLinearConv of 1 and 3 axes with a bias, ConvTranspose in groups
    ("qoperator", "conv-1d"),
    ("qoperator", "conv-3d"),
    ("weight-only", "conv-transpose-grouped"),
    ("weight-only, portable", "conv-transpose-grouped"),
}
LEAST = 34.0  # dB against float, 8-bit weights and, but for weight-only, 8-bit activations


@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel"])
@pytest.mark.parametrize(("emitter", "form"), itertools.product(EMITTERS, FORMS))
def test_every_form(emitter, form, granularity):
    case = FORMS[form]
    model = prepare(model_from_text(case.text)).model
    options = EMITTERS[emitter] | {"weights": {"dtype": "int8", "symmetric": True, "granularity": granularity}}
    if emitter.startswith("weight-only") and (form, granularity) in REFUSED:
        with pytest.raises(RecipeError, match=REFUSED[form, granularity]):
            quantize_model(model, _feeds(model, case), **options)
        return
    done = quantize_model(model, _feeds(model, case), placement="everywhere", **options)
    quantized = [tensor for tensor in done.plan.tensors.values() if tensor.role is Role.WEIGHT]
    if form.startswith(NO_KERNEL[emitter]):
        assert not quantized
        assert all(entry.action is Action.KEEP and entry.reason.text for entry in done.plan.decisions)
        return
    assert {tensor.tensor.partition("/")[0] for tensor in quantized} >= {"w"}
    assert done.sqnr(optimize=False) > LEAST
    assert done.sqnr(optimize=True) > LEAST
    (actual,) = run_model(done.model, dict(done.feeds), optimize=False).values()
    expected = _expected(done, model, known=(emitter, form) not in UNKNOWN)
    noise = np.sum(np.square(np.float64(expected) - actual))
    kernels = {node.op_type for node in done.model.graph}
    rounds_inside = kernels & {"MatMulNBits", "DynamicQuantizeLSTM"}  # activations, and hidden states
    assert noise <= np.sum(np.square(np.float64(expected))) * 10 ** -(4 if rounds_inside else 12)


def _expected(done, model, *, known):
    if not known:
        (expected,) = run_model(simulate(model, done.plan), dict(done.feeds), optimize=False).values()
        return expected
    standard = all(not node.domain for node in done.model.graph)
    other = done.model if standard else simulate(model, done.plan)
    (expected,) = ReferenceEvaluator(ir.to_proto(other)).run(None, dict(done.feeds))
    return expected


def _feeds(model, case):
    rng = np.random.default_rng(1)
    shapes = {value.name: [int(dim) for dim in value.shape] for value in model.graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()} | case.feeds
