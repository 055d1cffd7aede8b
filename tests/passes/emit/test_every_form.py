"""Every emitter, every form of every operator with weights, per tensor and per channel: one table.

Each model is held against float with the optimizer off and as served, and against `onnx.reference`: itself where the
reference knows its operators, else its simulation, which is in operators of the standard.
"""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.errors import RecipeError
from onnxq.graph.tensors import total_bytes
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from onnxq.stages.prepare import prepare
from onnxq.stages.rewrite import simulate
from onnxq.types.plan import Action, Role
from tests.support.operators import WEIGHTS
from tests.support.quantizing import quantize_model

EMITTERS = {
    "qdq": {"format": "qdq"},
    "qoperator": {"format": "qoperator"},
    "dynamic": {"format": "dynamic"},
    "weight-only": {"format": "weight-only"},
    "weight-only, portable": {"format": "weight-only", "portable": True},
}
NO_KERNEL = {  # these stay in float, and the plan says why
    "qdq": ("conv-transpose",),
    "qoperator": ("conv-transpose",),
    "dynamic": ("conv-transpose",),
    "weight-only": (),
    "weight-only, portable": (),
}
REFUSED = {  # weight-only, either way of writing it
    "per-tensor": dict.fromkeys(
        ("gather", "gather-scalar", "gather-inner", "gather-middle"),
        "no kernel for per-tensor weights; take per-block or per-channel",
    ),
    "per-channel": dict.fromkeys(("gather-inner", "gather-middle"), "only rows of a matrix are looked up as codes"),
}
UNKNOWN = {  # to the reference: QLinearConv of 1 and 3 axes with a bias, ConvTranspose in groups
    ("qoperator", "conv-1d"),
    ("qoperator", "conv-3d"),
    ("weight-only", "conv-transpose-grouped"),
    ("weight-only, portable", "conv-transpose-grouped"),
}
LEAST = 34.0  # dB against float, 8-bit weights and, except weight-only, 8-bit activations
ONE_SCALE = (  # with one scale for the whole weight: one form of each operator
    "conv-1d",
    "conv-2d",
    "depthwise",
    "conv-transpose",
    "matmul",
    "matmul-batched",
    "gemm trans11",
    "lstm-forward",
    "gru-bidirectional",
    "gather",
    "gather-inner",
)
UNSERVED = {  # onnxruntime takes the one scale of a row for a scale of the whole tensor, and refuses the block
    ("weight-only, portable", "gather-scalar", "per-channel"),
}
FORMS = [(form, "per-channel") for form in WEIGHTS] + [(form, "per-tensor") for form in ONE_SCALE]
CASES = [
    pytest.param(*case, marks=[pytest.mark.xfail(strict=True)] if case in UNSERVED else [])
    for case in ((emitter, *form) for emitter in EMITTERS for form in FORMS)
]


@pytest.mark.parametrize(("emitter", "form", "granularity"), CASES)
def test_every_form(emitter, form, granularity):
    operator = WEIGHTS[form]
    model = prepare(model_from_text(operator.text(opset=21))).model
    options = EMITTERS[emitter] | {"weights": {"dtype": "int8", "symmetric": True, "granularity": granularity}}
    if emitter.startswith("weight-only") and form in REFUSED[granularity]:
        with pytest.raises(RecipeError, match=REFUSED[granularity][form]):
            quantize_model(model, operator.feeds, **options)
        return
    done = quantize_model(model, operator.feeds, placement="everywhere", **options)
    quantized = [tensor for tensor in done.plan.tensors.values() if tensor.role is Role.WEIGHT]
    if form.startswith(NO_KERNEL[emitter]):
        assert not quantized
        assert all(entry.action is Action.KEEP and entry.reason.text for entry in done.plan.decisions)
        return
    assert {tensor.tensor.partition("/")[0] for tensor in quantized} >= {"w"}
    if emitter == "dynamic":
        assert operator.dynamic in {entry.kernel for entry in done.plan.decisions}
    assert total_bytes(done.model) < total_bytes(done.float_model) + 1200  # small tables of parameters
    assert done.sqnr(optimize=False) > LEAST
    assert done.sqnr(optimize=True) > LEAST
    kernels = {node.op_type for node in done.model.graph}
    rounds_inside = kernels & {"MatMulNBits", "DynamicQuantizeLSTM"}  # activations, and hidden states
    actual = run_model(done.model, dict(done.feeds), optimize=False)
    expected = _expected(done, model, known=(emitter, form) not in UNKNOWN)
    for name, reference in expected.items():
        noise = np.sum(np.square(np.float64(reference) - actual[name]))
        assert noise <= np.sum(np.square(np.float64(reference))) * 10 ** -(4 if rounds_inside else 12)


def _expected(done, model, *, known):
    if not known:
        return run_model(simulate(model, done.plan), dict(done.feeds), optimize=False)
    standard = all(not node.domain for node in done.model.graph)
    other = done.model if standard else simulate(model, done.plan)
    names = [value.name for value in other.graph.outputs]
    return dict(zip(names, ReferenceEvaluator(ir.to_proto(other)).run(names, dict(done.feeds)), strict=True))
