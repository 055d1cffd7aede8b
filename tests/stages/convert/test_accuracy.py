"""The accuracy level of MatMulNBits that came with a model: kept, unless one is asked for."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import run_model
from tests.support import converting

written = functools.partial(converting.written, format="weight-only")

NET = """
<ir_version: 10, opset_import: ["" : 21]>
net (float[N,80] x) => (float[N,24] y)
<float[80,64] w0, float[64] b0, float[64,24] w1>
{ a = MatMul (x, w0) b = Add (a, b0) c = Relu (b) y = MatMul (c, w1) }
"""
ROWS = {"x": np.random.default_rng(0).standard_normal((3, 80)).astype(np.float32)}


def theirs(level: int | None) -> onnx.ModelProto:
    """Return a model as onnxruntime's quantizer writes it; None: without the attribute, which means 0."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    model = ir.to_proto(model_from_text(NET))
    quantizer = MatMulNBitsQuantizer(model, bits=4, block_size=32, is_symmetric=False, accuracy_level=level)
    quantizer.process()
    return quantizer.model.model


def levels(model: onnx.ModelProto) -> list[int]:
    """Return the level of each MatMulNBits; an attribute that is absent means 0."""
    found = []
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            found.append(next((each.i for each in node.attribute if each.name == "accuracy_level"), 0))
    return found


@pytest.mark.parametrize("level", [None, 0, 1, 2, 4])
def test_a_level_stays_there_and_back(level: int | None) -> None:
    came = theirs(level)
    there = written(came, portable=True)
    assert levels(there) == []
    back = written(there)
    assert levels(back) == [level or 0] * 2
    for optimize in (False, True):
        expected, found = (run_model(model, ROWS, optimize=optimize)["y"] for model in (came, back))
        assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("level", "products"), [(0, 2), (1, 2), (4, 0)])
def test_a_fault_of_the_level_that_rounds_is_met_by_no_other(level: int, products: int) -> None:
    there = written(theirs(level), portable=True)
    assert len(levels(written(there, faults=["one-row-4-bits"]))) == products


@pytest.mark.parametrize("level", [None, 1, 4])
@pytest.mark.parametrize("form", ["weight-only", "qdq", "dynamic"])
def test_a_model_of_theirs_stays_as_it_came(level: int | None, form: str, tmp_path: Path) -> None:
    onnx.save(theirs(level), tmp_path / "came.onnx")
    feeds = [ROWS]
    for source, target in (("came", "once"), ("once", "twice")):
        report = onnxq.quantize(
            tmp_path / f"{source}.onnx",
            tmp_path / f"{target}.onnx",
            check=False,
            format=form,
            calibration=feeds,
            allow_empty=True,
        )
        assert not any("no effect" in warning for warning in report.warnings)
    assert levels(onnx.load(tmp_path / "once.onnx")) == [level or 0] * 2
    assert (tmp_path / "once.onnx").read_bytes() == (tmp_path / "twice.onnx").read_bytes()


def test_a_level_that_is_asked_for_is_written() -> None:
    came = theirs(None)
    for asked in (1, 4):
        report = onnxq.quantize(came, check=False, format="weight-only", accuracy_level=asked)
        assert levels(report.model) == [asked] * 2
        assert {tensor.name: tensor.raw_data for tensor in report.model.graph.initializer} == {
            tensor.name: tensor.raw_data for tensor in came.graph.initializer
        }
        reasons = [entry.reason for entry in report.plan.decisions if entry.op.endswith("MatMulNBits")]
        assert all(reason.code == "imported" and f"level {asked}" in reason.text for reason in reasons)
        assert any("2 MatMulNBits nodes came with another" in warning for warning in report.warnings)
        again = written(report.model, accuracy_level=asked)
        assert again.SerializeToString(deterministic=True) == report.model.SerializeToString(deterministic=True)


def test_a_level_that_is_asked_for_wins_over_the_one_noted() -> None:
    there = written(theirs(None), portable=True)
    assert levels(written(there, accuracy_level=1)) == [1, 1]


def test_level_1_does_not_round_what_it_multiplies() -> None:
    standard = written(theirs(None), portable=True)
    exact = run_model(standard, ROWS, optimize=False)["y"]
    errors = [
        float(np.abs(run_model(written(theirs(None), accuracy_level=level), ROWS)["y"] - exact).max())
        for level in (1, 4)
    ]
    assert errors[0] < 0.01 * errors[1]


def test_rules_keep_the_level_that_came() -> None:
    came = theirs(None)
    (first, *_) = (node.name for node in came.graph.node if node.op_type == "MatMulNBits")
    found = written(came, accuracy_level=4, keep=[first])
    assert levels(found) == [0, 4]


def test_new_products_get_level_4() -> None:
    assert levels(written(ir.to_proto(model_from_text(NET)))) == [4, 4]
