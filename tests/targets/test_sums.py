"""What rows say of saturation is what the runtime does: on this processor, and on one without VNNI where emulated."""

import json

import pytest
from onnxq.errors import RecipeError
from onnxq.proofs import prove as reproving
from onnxq.proofs.probe import EXACT, PAIRS, ProbeResult, probe_sums
from onnxq.runtime.saturation import adds_pairs
from onnxq.targets import targets

PROBE = """
import json, sys
from onnxq.proofs.probe import probe_sums
from onnxq.targets import targets
results = probe_sums(targets.get("cpu-avx2"))
json.dump([[r.op, r.form, r.activations, r.weights, r.expected, r.found] for r in results], sys.stdout)
"""


@pytest.mark.real_processor
def test_the_processor_does_what_its_target_says():
    assert adds_pairs() is any(row.pairs for row in targets.get("cpu").rows)


@pytest.mark.real_processor
def test_sums_here_are_what_the_rows_say():
    results = list(probe_sums(targets.get("cpu")))
    assert len(results) > 20
    assert [result for result in results if result.found != result.expected] == []


@pytest.mark.timeout(600)
def test_sums_without_vnni_are_what_the_rows_say(run_without_vnni):
    results = json.loads(run_without_vnni(PROBE))
    assert [row for row in results if row[4] != row[5]] == []
    assert {row[5] for row in results} == {EXACT, PAIRS}


def test_only_signed_weights_saturate():
    found = {(row.op, tuple(row.weights)) for row in targets.get("cpu-avx2").rows if row.pairs}
    assert found == {(op, ("int8",)) for op in ("MatMul", "Gemm", "Conv", "LSTM")}


@pytest.mark.real_processor
def test_a_row_that_does_not_hold_is_named(monkeypatch):
    wrong = ProbeResult(
        op="Conv", form="qdq", activations=None, weights=None, expected="QLinearConv", found="Conv in float"
    )
    monkeypatch.setattr(reproving, "probe", lambda target: iter([wrong]))
    monkeypatch.setattr(reproving, "probe_sums", lambda target: iter([]))
    assert reproving.reprove("cpu").changed == (wrong,)


def test_what_is_not_installed_is_said_to_be_unproven():
    assert "no CUDAExecutionProvider" in reproving.reprove("cuda").how
    assert reproving.reprove("cuda").results == ()


def test_an_unknown_target_is_named_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'cpu-vnni'"):
        reproving.reprove("cpu-vnmi")
