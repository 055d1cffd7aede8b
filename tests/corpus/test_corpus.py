"""A sample of the corpus; all of it is a command, `python -m tests.corpus --all`."""

import pytest
from tests.corpus.cases import node_cases
from tests.corpus.formats import FORMATS
from tests.corpus.judge import Judge

STEP = 67  # a prime, so that neither the families of tests nor their two forms fall into step with it
PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_backend_graphs_through_every_format(part):
    """The cases are made here, not when tests are collected: that takes seconds."""
    sample = list(node_cases())[::STEP]
    assert len(sample) > 40
    for case in sample[part::PARTS]:
        judge = Judge(*case.make())
        for fmt in FORMATS:
            outcome = judge.judge(fmt)
            assert outcome.kind != "failed", f"{case.name}, {fmt.name}: {outcome.detail}"
