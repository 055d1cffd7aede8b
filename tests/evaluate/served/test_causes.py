"""Causes, looked up by graphs as the runtime would leave them."""

import numpy as np
import pytest
from onnxq.evaluate.served import CAUSES, Departure, Ran, cause_of, ran_at, why
from onnxq.graph.text import model_from_text
from onnxq.targets.faults import faults
from tests.support.models import model_with

HEAD = '<ir_version: 8, opset_import: ["" : 21, "com.microsoft" : 1]>'
PRODUCT = (
    f"{HEAD} g (uint8[1,4] a) => (uint8[1,2] y) <float s = {{1.0}}, uint8 p = {{0}}, int8[4,2] w, int8 z = {{0}}> "
    "{ y = QLinearMatMul (a, s, p, w, s, z, s, p) }"
)
ATTENTION = (
    f"{HEAD} g (uint8[B,4,N] a, uint8[B,N,4] b) => (uint8[B,4,4] y) "
    "<float s = {1.0}, uint8 p = {0}, int8 z = {0}> "
    "{ y = QLinearMatMul (a, s, p, b, s, p, s, p) }"
)
DEPTHWISE = (
    f"{HEAD} g (uint8[1,2,4,4] a) => (uint8[1,2,3,3] y) "
    "<float s = {1.0}, uint8 p = {0}, int8[2,1,2,2] w, int8 z = {0}> "
    "{ y = QLinearConv <group = 2> (a, s, p, w, s, z, s, p) }"
)
BLOCKS = (
    f"{HEAD} g (float[1,32] x) => (float[1,2] y) <uint8[2,1,16] w, float[2] s> "
    "{ y = com.microsoft.MatMulNBits <K = 32, N = 2, bits = 4, block_size = 32, accuracy_level = 4> (x, w, s) }"
)
SOFTMAX = (
    f"{HEAD} g (uint8[1,4] a) => (uint8[1,4] y) <float s = {{1.0}}, uint8 p = {{0}}> "
    "{ y = com.microsoft.QLinearSoftmax <axis = 1, opset = 13> (a, s, p, s, p) }"
)


def ran(text: str, weight: np.ndarray | None = None, *, pairs: bool = True, target: str | None = None, **more) -> Ran:
    model = model_from_text(text) if weight is None else model_with(text, w=weight)
    nodes = tuple(model.graph)
    return Ran(nodes=nodes, weights=dict(model.graph.initializers), pairs=pairs, target=target, **more)


def name(found: Ran) -> str | None:
    cause = cause_of(found)
    return None if cause is None else cause.name


def heavy(*shape: int) -> np.ndarray:
    return np.full(shape, 100, np.int8)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (ran(PRODUCT, heavy(4, 2)), "saturation"),
        (ran(PRODUCT, heavy(4, 2), pairs=False), None),
        (ran(PRODUCT, np.full((4, 2), 64, np.int8)), None),  # 255 * (64 + 64) = 32640
        (ran(PRODUCT, np.tile(np.array([[100], [-100]], np.int8), (2, 2))), None),  # one of each sign
        (ran(PRODUCT.replace("int8[4,2] w", "uint8[4,2] w").replace("int8 z", "uint8 z"), heavy(4, 2)), None),
        (ran(PRODUCT.replace("uint8 p", "int8 p").replace("uint8[1,4] a", "int8[1,4] a"), heavy(4, 2)), None),
        (ran(ATTENTION), None),  # uint8 x uint8
        (
            ran(
                ATTENTION.replace("uint8[B,N,4] b", "int8[B,N,4] b").replace("(a, s, p, b, s, p,", "(a, s, p, b, s, z,")
            ),
            "saturation",
        ),
        (ran(DEPTHWISE, heavy(2, 1, 2, 2)), None),
        (
            ran(DEPTHWISE.replace("group = 2", "group = 1").replace("1,2,4,4", "1,1,4,4"), heavy(2, 1, 2, 2)),
            "saturation",
        ),
        (ran(BLOCKS), "accuracy-level"),
        (ran(BLOCKS.replace("accuracy_level = 4", "accuracy_level = 1")), None),
        (ran(SOFTMAX), "softmax"),
    ],
)
def test_a_cause_is_recognized_by_what_ran(found, expected):
    assert name(found) == expected


def test_nobody_is_sent_to_the_target_that_is_theirs():
    advice = {target: why([ran(PRODUCT, heavy(4, 2), target=target)]) for target in (None, "cpu-vnni", "cpu-avx2")}
    assert "--target cpu-avx2" in advice[None]
    assert "--target cpu-avx2" in advice["cpu-vnni"]
    assert "--target" not in advice["cpu-avx2"]
    assert all("saturate" in text for text in advice.values())


def test_a_product_that_was_written_is_told_from_one_that_was_fused():
    assert "were fused to MatMulNBits at accuracy level 4" in why([ran(BLOCKS)])
    written = why([ran(BLOCKS, written=frozenset({"com.microsoft::MatMulNBits"}))])
    assert "the product runs as MatMulNBits at accuracy level 4" in written
    assert "fused" not in written


def test_several_causes_are_told_once_each():
    text = why([ran(SOFTMAX), ran(BLOCKS), ran(SOFTMAX)], advice=False)
    assert (text.count("QLinearSoftmax"), text.count("MatMulNBits")) == (1, 1)


def test_no_cause_is_made_up():
    text = why([ran(PRODUCT, heavy(4, 2), pairs=False)])
    assert "cause unknown (QLinearMatMul)" in text
    assert "cause unknown" in why([])


def test_causes_have_names_of_their_own():
    assert len({cause.name for cause in CAUSES}) == len(CAUSES)


def test_a_cause_that_is_a_fault_of_the_runtime_says_what_the_fault_says():
    fault = faults.get("softmax-rounding")
    assert why([ran(SOFTMAX)]) == f"{fault.summary}; {fault.advice}"


def test_what_holds_for_the_whole_model_is_looked_up_once_for_all_places():
    model = model_with(PRODUCT, w=heavy(4, 2))
    (node,) = model.graph
    found = [Departure(tensor=f"t{i}", noise=1.0, nodes=(), ran=(node,) * i) for i in range(3)]
    places = ran_at(model, found, target="cpu-vnni")
    assert [each.nodes for each in places] == [(), (node,), (node, node)]
    assert len({id(each.weights) for each in places}) == len({id(each.written) for each in places}) == 1
    assert places[0].written == {"QLinearMatMul"}
    assert {*places[0].weights} == {"s", "p", "w", "z"}
