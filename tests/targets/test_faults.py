"""Faults of onnxruntime: what they declare is what was found, what shows them is right, and plans go around them."""

import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.evaluate import faults as trying
from onnxq.evaluate.faults import present, shows, standing, try_fault
from onnxq.files.faults import fault_file
from onnxq.graph.text import model_from_text
from onnxq.graph.walk import nodes
from onnxq.pipeline.examining import Examinations
from onnxq.targets import targets
from onnxq.targets.evidence import evidence, newest_instructions, proven
from onnxq.targets.faults import Fault, _never, faults
from onnxq.targets.processor import this_processor
from onnxq.types.plan import Detour
from onnxq.types.recipe import Recipe

ROOT = Path(__file__).parents[2]
ALL = [fault for _, fault in faults.items()]
TRIED = [fault for fault in ALL if fault.cases is not None]
HERE = this_processor().target
OTHER = "cpu-avx2" if HERE != "cpu-avx2" else "cpu-vnni"


def by_name(fault):
    return fault.name


@pytest.mark.parametrize("fault", ALL, ids=by_name)
def test_contract(fault):
    assert faults.get(fault.name) is fault
    assert all((fault.summary, fault.advice, fault.reported))
    assert fault.targets <= set(targets.names())
    assert fault.cases is not None or fault.first, "what cannot be tried has to be declared"
    assert re.fullmatch(r"\d+\.\d+\.\d+|", fault.first), "the first version in full"
    assert fault.is_avoided or not fault.instead, "ways around are for what is written"


@pytest.mark.parametrize("fault", TRIED, ids=by_name)
def test_what_a_case_calls_right_is_what_onnx_says(fault):
    """Of operators of the standard; the others are computed in numpy from the codes."""
    for case in fault.cases():
        known = re.sub(r'"" : (13|17)', '"" : 21', case.text)  # the reference lacks these operators in older opsets
        model = ir.to_proto(model_from_text(known))
        if "com.microsoft." in case.text or "int4" in case.text or case.right is None:
            continue
        (found,) = ReferenceEvaluator(model).run(None, dict(case.feeds))
        np.testing.assert_allclose(found, case.right, atol=1e-3 * np.abs(case.right).max())


@pytest.mark.parametrize("fault", [fault for fault in TRIED if fault.first], ids=by_name)
def test_what_is_declared_is_what_was_recorded(fault):
    for entry in evidence():
        recorded = fault.name in entry.faults
        assert recorded or fault.name in entry.absent
        assert fault.declared(entry.target, entry.onnxruntime) is recorded, (entry.onnxruntime, entry.processor)


def test_no_release_has_what_declares_none():
    silent = {fault.name for fault in TRIED if not fault.first}
    assert silent
    assert not any(silent & set(entry.faults) for entry in evidence())


@pytest.mark.parametrize("fault", TRIED, ids=by_name)
def test_what_is_recorded_of_this_machine_still_holds(fault):
    kind = newest_instructions(this_processor())
    recorded = [
        entry for entry in evidence() if (entry.onnxruntime, entry.processor) == (onnxruntime.__version__, kind)
    ]
    if not recorded:
        pytest.skip(f"nothing is recorded of onnxruntime {onnxruntime.__version__} on {kind}")
    assert try_fault(fault).present is (fault.name in recorded[0].faults)


def test_versions_that_are_allowed_run_every_row():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    bounds = [
        re.fullmatch(r"[\w-]+>=([\d.]+)", text)[1]
        for extra in ("cpu", "gpu")
        for text in project["optional-dependencies"][extra]
    ]
    assert len(set(bounds)) == 1
    lowest = tuple(map(int, bounds[0].split(".")))
    allowed = [entry for entry in evidence() if entry.key[0] >= lowest]
    assert min(entry.key[0] for entry in allowed)[: len(lowest)] == lowest, "the oldest one was tried itself"
    assert {entry.changed for entry in allowed} == {()}
    assert any(entry.changed for entry in evidence() if entry.key[0] < lowest), "and an older one does not"


def test_pages_and_rows_say_what_was_recorded():
    check = [sys.executable, "docs/generate_targets.py", "--check"]
    subprocess.run(check, cwd=ROOT, check=True, env={"PYTHONPATH": str(ROOT)})
    for name in ("cpu-vnni", "cpu-avx2"):
        assert all(proven(name) in row.evidence for row in targets.get(name).rows)
    assert "1.25.0 to " in proven("cpu-vnni")


def test_a_case_that_fails_is_told_apart():
    case = next(faults.get("resize-linear").cases())
    assert "off by" in shows(replace(case, right=case.right + 1))
    assert "cannot load" in shows(replace(case, text=case.text.replace("Resize <", "Resize <axes = [9], ")))


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Count which faults are tried, with findings kept in a folder of their own."""
    monkeypatch.setenv("ONNXQ_COSTS", str(tmp_path))
    tried = []

    def pretend(fault: Fault):
        tried.append(fault.name)
        return trying.Finding(fault=fault.name, present=True, how="tried", summary="")

    monkeypatch.setattr(trying, "try_fault", pretend)
    return tried


def test_each_fault_is_tried_once_and_kept(counted):
    here = targets.get(HERE)
    assert present(["block-512"], here) == {"block-512"}
    assert present(["block-512", "resize-linear"], here) == {"block-512", "resize-linear"}
    assert counted == ["block-512", "resize-linear"]
    fault_file(onnxruntime.__version__).write_text("{", encoding="utf-8")
    assert present(["block-512"], here) == {"block-512"}
    assert counted == ["block-512", "resize-linear", "block-512"]


def test_another_target_goes_by_what_is_declared(counted):
    found = present(faults.names(), targets.get(OTHER))
    assert found == {name for name, fault in faults.items() if fault.declared(OTHER, onnxruntime.__version__)}
    assert counted == []


def test_only_faults_that_a_node_would_meet_are_tried(counted):
    model = model_from_text(
        '<ir_version: 9, opset_import: ["" : 17]>\n'
        "g (float[4,64] x) => (float[4,8] y) <float[64,8] w> { y = MatMul (x, w) }"
    )
    examinations = Examinations(model, targets.get(HERE), tries_faults=True)
    examinations(Recipe.parse({"format": "weight-only", "weights": "int8"}))
    assert counted == []
    assert examinations.target.faults == frozenset()
    examinations(Recipe.parse({"format": "weight-only"}))
    assert counted == ["one-row-4-bits"]


def test_declared_spans_hold_at_their_ends():
    fault = faults.get("nbits-in-body")
    assert [fault.declared("cpu-vnni", version) for version in ("1.22.1", "1.23.0", "1.28.9", "1.29.0", None)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert faults.get("int8-pairs-arm").declared("cpu-arm64", None)
    assert not faults.get("int8-pairs-arm").declared("cpu-vnni", None)


BLOCKS = "K = 512, N = 4, bits = 8, accuracy_level = 4"
NBITS = "com.microsoft.MatMulNBits"
FOUND = {  # what a fault is found in, and what it is not found in
    "block-512": (
        f"<uint8[4,1,512] q, float[4,1] s> {{ y = {NBITS} <{BLOCKS}, block_size = 512> (x, q, s) }}",
        f"<uint8[4,2,256] q, float[4,2] s> {{ y = {NBITS} <{BLOCKS}, block_size = 256> (x, q, s) }}",
    ),
    "nbits-computed": (
        f"<uint8[4,2,256] q, float[4,2] s> {{ r = Abs (s) y = {NBITS} <{BLOCKS}, block_size = 256> (x, q, r) }}",
        f"<uint8[4,2,256] q, float[4,2] s> {{ y = {NBITS} <{BLOCKS}, block_size = 256> (x, q, s) }}",
    ),
    "resize-linear": (
        "<float s = {1.0}, uint8 z = {0}, float[2] c = {1.0, 2.0}> { q = QuantizeLinear (x, s, z) "
        'd = DequantizeLinear (q, s, z) y = Resize <mode = "linear"> (d, , c) }',
        '<float[2] c = {1.0, 2.0}> { y = Resize <mode = "linear"> (x, , c) }',
    ),
    "softmax-rounding": (
        "<float s = {1.0}, uint8 z = {0}> { q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) "
        "f = Softmax (d) y = QuantizeLinear (f, s, z) }",
        "{ y = Softmax (x) }",
    ),
    "no-quantize-linear-28": (
        "<float s = {1.0}, uint8 z = {0}> { y = QuantizeLinear (x, s, z) }",
        "<float s = {1.0}, uint8 z = {0}> { y = com.microsoft.QuantizeLinear (x, s, z) }",
    ),
    "gemm-without-zero-point": (
        "<float s = {1.0}, uint8 z = {0}, int8[512,4] w, float[4] t> { q = QuantizeLinear (x, s, z) "
        "d = DequantizeLinear (q, s, z) v = DequantizeLinear <axis = 1> (w, t) y = Gemm (d, v) }",
        "<float s = {1.0}, uint8 z = {0}, int8[512,4] w, float[4] t, int8[4] o> { q = QuantizeLinear (x, s, z) "
        "d = DequantizeLinear (q, s, z) v = DequantizeLinear <axis = 1> (w, t, o) y = Gemm (d, v) }",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_stands_in_a_model_is_found(name, counted):
    opset = 28 if name.endswith("28") else 17
    for body, expected in zip(FOUND[name], (True, False), strict=True):
        text = f'<ir_version: 10, opset_import: ["" : {opset}, "com.microsoft" : 1]>\ng (float[4,512] x) => (y) {body}'
        text = re.sub(r"(u?int8)\[([\d,]+)\] (\w)", _filled, text)
        found = standing(model_from_text(text), targets.get(HERE))
        assert (name in found) is expected


@pytest.mark.parametrize("fault", [fault for fault in TRIED if fault.meets_node is not _never], ids=by_name)
def test_every_fault_is_found_in_its_own_case(fault):
    for case in fault.cases():
        model = model_from_text(case.text)
        opset = model.opset_imports[""]
        assert any(fault.meets_node(node, opset) for _, node in nodes(model))


def _filled(match):
    count = int(np.prod([int(part) for part in match[2].split(",")]))
    return f"{match[1]}[{match[2]}] {match[3]} = {{{', '.join(['0'] * count)}}}"


def test_int8_codes_of_the_lowest_are_found_in_imported_models(counted):
    text = (
        '<ir_version: 10, opset_import: ["" : 13]>\ng (uint8[1,2] x) => (int32[1,2] y)\n'
        "<int8[2,2] w = {LOWEST, 0, 5, 127}> { y = MatMulInteger (x, w) }"
    )
    arm = targets.get("cpu-arm64")
    assert standing(model_from_text(text.replace("LOWEST", "-128")), arm).keys() == {"int8-pairs-arm"}
    assert standing(model_from_text(text.replace("LOWEST", "-127")), arm) == {}


INT8 = "<int8[2,2] w = {-128, 0, 5, 127}>"
ZERO = "uint8 z = {0}, int8 v = {0}, float s = {1.0}, float t = {1.0}"
MULTIPLIED = {
    "MatMulInteger": f"(uint8[1,2] x) => (y) {INT8} {{ y = MatMulInteger (x, w) }}",
    "QLinearMatMul": f"(uint8[1,2] x) => (y) <{ZERO}, {INT8[1:]} {{ y = QLinearMatMul (x, s, z, w, t, v, s, z) }}",
    "QGemm": f"(uint8[1,2] x) => (y) <{ZERO}, {INT8[1:]} {{ y = com.microsoft.QGemm (x, s, z, w, t, v, , s, z) }}",
    "MatMulIntegerToFloat": f"(uint8[1,2] x) => (y) <{ZERO}, {INT8[1:]} "
    "{ y = com.microsoft.MatMulIntegerToFloat (x, w, s, t, z, v) }",
    "DynamicQuantizeMatMul": f"(float[1,2] x) => (y) <{ZERO}, {INT8[1:]} "
    "{ y = com.microsoft.DynamicQuantizeMatMul (x, w, t, v) }",
}


@pytest.mark.parametrize("op", MULTIPLIED)
def test_int8_codes_of_the_lowest_are_found_in_every_integer_operator(op):
    head = '<ir_version: 10, opset_import: ["" : 13, "com.microsoft" : 1]>\ng '
    for code, expected in (("-128", {"int8-pairs-arm"}), ("-127", set())):
        model = model_from_text(head + MULTIPLIED[op].replace("-128", code))
        assert standing(model, targets.get("cpu-arm64")).keys() == expected


def test_weights_are_read_only_for_targets_whose_runtime_may_have_the_fault(counted):
    read = []

    def codes():
        read.append("w")
        return ir.tensor(np.array([[-128, 0], [5, 127]], np.int8))

    for name, expected in (("cpu-vnni", []), ("cpu-avx2", []), ("cpu-arm64", ["w"])):
        model = model_from_text(f'<ir_version: 10, opset_import: ["" : 13]>\ng {MULTIPLIED["MatMulInteger"]}')
        model.graph.initializers["w"].const_value = ir.LazyTensor(codes, dtype=ir.DataType.INT8, shape=ir.Shape([2, 2]))
        standing(model, targets.get(name))
        assert read == expected


def test_detours_are_part_of_every_decision_that_names_them():
    assert {way.detour for fault in ALL for way in fault.instead if way.detour} == set(Detour)
    assert list(nodes(model_from_text(next(TRIED[0].cases()).text)))
