"""Facts about operators against the operators' own specification."""

import numpy as np
import onnx.defs
import pytest
from onnxq.graph.text import model_from_text
from onnxq.ops import clamp_bounds, facts
from tests.support.quantizing import text


@pytest.mark.parametrize("op", facts.names())
def test_facts_name_slots_that_the_operator_has(op):
    fact = facts.get(op)
    domain, _, name = op.rpartition("::")
    schema = onnx.defs.get_schema(name, domain)
    variadic = schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    slots = [slot for slot in (*(fact.activations or ()), fact.weight, fact.bias) if slot is not None]
    assert all(slot < len(schema.inputs) or variadic for slot in slots)
    assert fact.summary
    assert (fact.weight is None) == (fact.channel_axis is None) == (fact.reduction_axis is None)
    for slot in slots:
        assert any("float" in kind for kind in schema.inputs[min(slot, len(schema.inputs) - 1)].types)


@pytest.mark.parametrize(
    ("body", "weights", "expected"),
    [
        ("y = Relu (x)", "", (0.0, np.finfo(np.float32).max)),
        ("y = Clip (x, lo, hi)", "float lo = {-1.5}, float hi = {2}", (-1.5, 2.0)),
        ("y = Clip (x, , hi)", "float hi = {2}", (np.finfo(np.float32).min, 2.0)),
        ("y = Tanh (x)", "", None),
        ("y = Clip (x, x, hi)", "float hi = {2}", None),
    ],
)
def test_bounds_of_clamps(body, weights, expected):
    node = model_from_text(text(body, "float x", "float y", weights)).graph[0]
    found = clamp_bounds(node)
    assert (None if found is None else (found.low, found.high)) == expected


def test_bounds_of_a_clip_before_opset_11_are_attributes():
    node = model_from_text(text("y = Clip <max = 6.0> (x)", "float x", "float y", opset=9)).graph[0]
    assert clamp_bounds(node).high == 6.0


@pytest.mark.parametrize(
    ("body", "inputs", "weights", "channel", "reduction", "macs"),
    [
        ("y = Conv (x, w)", "float[1,4,8,8] x", "float[6,2,3,3] w", 0, 1, 2 * 9),
        ("y = ConvTranspose (x, w)", "float[1,4,8,8] x", "float[4,6,2,2] w", 1, 0, 4 * 4),
        ("y = MatMul (x, w)", "float[5,4] x", "float[4,6] w", 1, 0, 4),
        ("y = Gemm (x, w)", "float[5,4] x", "float[4,6] w", 1, 0, 4),
        ("y = Gemm <transB = 1> (x, w)", "float[5,4] x", "float[6,4] w", 0, 1, 4),
    ],
)
def test_axes_and_work_of_matrix_products(body, inputs, weights, channel, reduction, macs):
    model = model_from_text(text(body, inputs, "float y", weights))
    node = model.graph[0]
    fact = facts.get(node.op_type)
    rank = len(node.inputs[1].shape)
    assert fact.channel_axis(node, rank) == channel
    assert fact.reduction_axis(node, rank) == reduction
    assert fact.macs(node, [tuple(value.shape.numpy()) for value in node.inputs]) == macs
