"""Every row of every target that this machine can run is proven on the installed runtime."""

import itertools

import pytest
from onnxq.ops import facts
from onnxq.proofs.probe import probe
from onnxq.targets import targets
from onnxq.types.scheme import PerTensor


def test_the_runtime_does_what_every_row_says_with_every_pair_of_types():
    target = targets.get("cpu")
    results = list(probe(target))
    assert [result for result in results if result.found != result.expected] == []
    probed = {(entry.op, entry.activations, entry.weights, entry.expected) for entry in results}
    for row in target.rows:
        for pair in itertools.product(row.activations or {None}, row.weights or {None}):
            assert (row.op, *pair, row.fused or row.kernel) in probed


def test_a_row_that_claims_too_much_does_not_hold():
    """The probe can tell: Tanh has no integer kernel, whatever a row says."""
    import dataclasses

    target = targets.get("cpu")
    sigmoid = next(row for row in target.rows if row.op == "Sigmoid")
    wrong = dataclasses.replace(
        sigmoid, op="Tanh", kernel="QLinearTanh", probe=sigmoid.probe.replace("Sigmoid", "Tanh")
    )
    results = list(probe(dataclasses.replace(target, rows=(wrong,))))
    assert results
    assert not any(result.holds for result in results)
    assert {result.found for result in results} == {"Tanh in float"}


@pytest.mark.parametrize("name", targets.names())
def test_contract_of_a_target(name):
    target = targets.get(name)
    assert target.name == name
    assert target.summary
    assert target.provider.endswith("ExecutionProvider")
    assert all(isinstance(entry.activations.granularity, PerTensor) for entry in target.defaults.values())
    for row in target.rows:
        assert row.op in facts, f"no facts about {row.op}"
        assert row.evidence
        assert row.probe
        assert (row.refuses is None) == (row.condition == ""), f"{row.op}: a condition is told in words and checked"
        assert not row.float_kernel or row.float_probe
