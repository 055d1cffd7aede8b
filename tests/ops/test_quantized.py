"""The table of quantized operators agrees with itself, with the facts about float operators and with ONNX's schemas."""

import onnx.defs
import pytest
from onnxq.ops import facts
from onnxq.ops.quantized import BIAS, OUTPUT, QUANTIZED_OPERATORS


@pytest.mark.parametrize("operator", QUANTIZED_OPERATORS.values(), ids=lambda operator: operator.name)
def test_slots_are_distinct_and_weights_are_those_of_the_float_operator(operator):
    operands = {*operator.operands, *operator.floats, BIAS, OUTPUT} - ({BIAS} if operator.variadic else set())
    slots = [slot for operand in operands for slot in operator.slots(operand) if slot is not None]
    assert len(slots) == len(set(slots))
    if operator.float_op is not None and operator.weights:
        fact = facts.get(operator.float_op)
        assert operator.weights == (fact.weight, *fact.more_weights)
    if not operator.domain:
        schema = onnx.defs.get_schema(operator.name)
        assert max(slots) < len(schema.inputs)
        assert set(operator.attributes) == set(schema.attributes)


def test_inputs_are_arranged_by_slot_without_those_left_out_at_the_end():
    gemm, concat = QUANTIZED_OPERATORS["QGemm"], QUANTIZED_OPERATORS["QLinearConcat"]
    a, b, y = ("a", "sa", "za"), ("b", "sb", "zb"), (None, "sy", "zy")
    assert gemm.order(3) == [0, 1, BIAS, OUTPUT]
    assert gemm.arrange({0: a, 1: b, OUTPUT: y}) == [*a, *b, None, "sy", "zy"]
    assert gemm.arrange({0: a, 1: b, BIAS: (None,)}) == [*a, *b]
    assert concat.order(2) == [OUTPUT, 0, 1]
    assert concat.arrange({OUTPUT: y, 0: a, 1: b}) == ["sy", "zy", *a, *b]
