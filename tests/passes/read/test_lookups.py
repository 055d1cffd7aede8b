"""Quantized rows looked up: GatherBlockQuantized and its form in operators of the standard, either from the other.

Codes, scales and zero points stay bit for bit; what both compute is what numpy computes from them.
"""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxq
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxq.runtime.session import run_model
from tests.support import converting
from tests.support.converting import ops, proto

written = functools.partial(converting.written, format="weight-only")

ROWS, COLUMNS = 48, 96
TEXT = f"""
<ir_version: 10, opset_import: ["" : 21]>
net (int64[N,3] i) => (float[N,3,{COLUMNS}] y)
<float[{ROWS},{COLUMNS}] table>
{{ y = Gather (table, i) }}
"""
TIED = f"""
<ir_version: 10, opset_import: ["" : 21]>
net (int64[N,3] i) => (float[N,3,{ROWS}] y)
<float[{ROWS},{COLUMNS}] table>
{{ e = Gather (table, i) t = Transpose <perm = [1, 0]> (table) y = MatMul (e, t) }}
"""
INDICES = {"i": np.array([[0, 47, -1], [5, 5, 20]], np.int64)}
SCHEMES = [
    {},
    {"weights": "uint4,per-block(16)"},
    {"weights": "int4,symmetric,per-block(32)"},
    {"weights": "int8,symmetric,per-block(32)"},
    {"weights": "uint8,per-block(32)"},
    {"weights": "int2,symmetric,per-block(16)"},
    {"weights": "int8,per-channel"},
]


def stored(model: onnx.ModelProto) -> set[tuple[str, bytes]]:
    return {(tensor.name, tensor.SerializeToString()) for tensor in model.graph.initializer}


def runs(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    """Return the output, which is the same with the optimizer off and as served."""
    plain, served = (run_model(model, INDICES, optimize=optimize)["y"] for optimize in (False, True))
    np.testing.assert_array_equal(plain, served)
    return served


def unpacked(bytes_: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int32]:
    """Take codes apart, the first in the lowest bits."""
    places = [(bytes_.astype(np.int32) >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(places, -1).reshape(len(bytes_), -1)


def by_hand(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    """Return the rows that a GatherBlockQuantized of bytes looks up: scale times code less zero point."""
    (node,) = (node for node in model.graph.node if node.op_type == "GatherBlockQuantized")
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    given = {attribute.name: attribute.i for attribute in node.attribute}
    codes, scale = unpacked(arrays[node.input[0]], given["bits"]), arrays[node.input[2]]
    zeros = np.full(scale.shape, 1 << (given["bits"] - 1))
    if len(node.input) > 3:
        zeros = unpacked(arrays[node.input[3]], given["bits"])[:, : scale.shape[1]]
    each = np.arange(codes.shape[1]) // given["block_size"]
    values = (codes - zeros[:, each]).astype(np.float32) * scale[:, each]
    return np.asarray(values[INDICES["i"]])


@pytest.mark.parametrize("options", SCHEMES, ids=str)
def test_there_and_back(options: dict[str, Any]) -> None:
    contrib = written(proto(TEXT), **options)
    standard = written(proto(TEXT), portable=True, **options)
    assert ops(contrib) == Counter({"GatherBlockQuantized": 1})
    there = written(contrib, portable=True, **options)
    back = written(standard, **options)
    assert stored(there) == stored(standard)
    assert ops(there) == ops(standard)
    assert stored(back) == stored(contrib)
    assert ops(back) == ops(contrib)
    expected = by_hand(contrib)
    for model in (contrib, standard, there, back):
        np.testing.assert_array_equal(runs(model), expected)


def test_what_was_written_anew_says_so_and_a_second_time_changes_nothing() -> None:
    contrib = written(proto(TEXT))
    for model, portable in ((contrib, True), (written(proto(TEXT), portable=True), False)):
        report = onnxq.quantize(model, format="weight-only", portable=portable, check=False)
        assert "imported" in {entry.reason.code for entry in report.plan.decisions}
        assert any("imported nodes" in warning for warning in report.warnings)
        again = written(report.model, portable=portable)
        assert again.SerializeToString(deterministic=True) == report.model.SerializeToString(deterministic=True)


def test_scales_that_are_looked_up_are_no_table_to_quantize() -> None:
    options = {"weights": "uint4,per-block(16)", "portable": True}
    once = written(proto(TEXT), **options)
    twice = written(once, **options)
    assert twice.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


def test_a_table_that_a_product_reads_too_is_stored_once_again() -> None:
    contrib, standard = (written(proto(TIED), portable=portable) for portable in (False, True))
    there, back = written(contrib, portable=True), written(standard)
    for model in (there, back):
        found = run_model(model, INDICES)["y"]
        expected = run_model(contrib, INDICES)["y"]
        assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()  # products round their inputs to 8 bits
    assert ops(back) == ops(contrib)
    assert stored(back) == stored(contrib)


@pytest.mark.parametrize("symmetric", [False, True])
def test_tables_of_another_quantizer(symmetric: bool) -> None:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    config = DefaultWeightOnlyQuantConfig(
        block_size=32, is_symmetric=symmetric, quant_format=QuantFormat.QOperator, op_types_to_quantize=("Gather",)
    )
    quantizer = MatMulNBitsQuantizer(proto(TEXT), algo_config=config)
    quantizer.process()
    theirs = quantizer.model.model
    assert "GatherBlockQuantized" in ops(theirs)
    there = written(theirs, portable=True)
    assert not any(node.domain for node in there.graph.node)
    back = written(there)
    assert ops(back) == Counter({"GatherBlockQuantized": 1})
    for model in (there, back):
        np.testing.assert_array_equal(runs(model), runs(theirs))
    np.testing.assert_array_equal(runs(back), by_hand(back))
    scales = {numpy_helper.to_array(t).tobytes() for t in theirs.graph.initializer if t.data_type == TensorProto.FLOAT}
    assert scales == {
        numpy_helper.to_array(t).tobytes() for t in back.graph.initializer if t.data_type == TensorProto.FLOAT
    }


def dequantized_table(kind: int, *, axis: int = 1, zero_points: bool = True) -> onnx.ModelProto:
    """Return a model that dequantizes a whole table in blocks of 32, and gathers rows of it."""
    rng = np.random.default_rng(0)
    blocks = (ROWS, COLUMNS // 32) if axis == 1 else (-(-ROWS // 32), COLUMNS)
    low, high = (0, 16) if kind == TensorProto.UINT4 else (-8, 8)
    tensors = [
        helper.make_tensor("codes", kind, (ROWS, COLUMNS), rng.integers(low, high, ROWS * COLUMNS)),
        numpy_helper.from_array(rng.uniform(0.5, 2, blocks).astype(np.float32), "scale"),
        helper.make_tensor("zero", kind, blocks, rng.integers(low, high, blocks).reshape(-1)),
    ]
    names = ["codes", "scale", *(["zero"] if zero_points else [])]
    nodes = [
        helper.make_node("DequantizeLinear", names, ["table"], axis=axis, block_size=32),
        helper.make_node("Gather", ["table", "i"], ["y"], name="look"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("i", TensorProto.INT64, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, COLUMNS])],
        tensors[: len(names)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("zero_points", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.UINT4, TensorProto.INT4])
def test_a_table_dequantized_as_a_whole_is_looked_up_on_codes(kind: int, zero_points: bool) -> None:
    model = dequantized_table(kind, zero_points=zero_points)
    found = written(model)
    assert ops(found) == Counter({"GatherBlockQuantized": 1})
    np.testing.assert_array_equal(runs(found), by_hand(found))
    np.testing.assert_array_equal(runs(found), runs(model))


def test_what_cannot_be_looked_up_stays_and_says_why() -> None:
    report = onnxq.quantize(dequantized_table(TensorProto.INT4, axis=0), format="weight-only", check=False)
    (reason,) = (entry.reason for entry in report.plan.decisions if entry.node == "look")
    assert reason.code == "already-quantized"
    assert "blocks along axis 0 cannot be looked up" in reason.text
    assert any("stay unchanged" in warning and "'look'" in warning for warning in report.warnings)
    assert ops(report.model) == Counter({"DequantizeLinear": 1, "Gather": 1})


def test_a_lookup_that_the_standard_has_no_form_for_stays_and_says_why() -> None:
    model = written(proto(TEXT))
    (node,) = model.graph.node
    (kept,) = (tensor for tensor in model.graph.initializer if tensor.name == node.input[0])
    model.graph.input.append(helper.make_tensor_value_info(kept.name, kept.data_type, kept.dims))  # a default
    report = onnxq.quantize(model, format="weight-only", portable=True, check=False)
    assert ops(report.model) == Counter({"GatherBlockQuantized": 1})
    (decision,) = report.plan.decisions
    assert "its codes, scales or zero points are computed" in decision.reason.text


def test_rules_decide_about_lookups() -> None:
    model = written(proto(TEXT))
    kept = written(model, portable=True, keep=["Gather"])
    assert kept.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
