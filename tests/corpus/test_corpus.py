"""A sample of the corpus; all of it is a command, `python -m tests.corpus --all`."""

import pytest
from tests.corpus.cases import node_cases
from tests.corpus.forms import FORMS
from tests.corpus.judge import Judge

# A prime step, so that neither the families of tests nor their two forms fall into step with it.
SAMPLE = list(node_cases())[::67]


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_a_backend_graph_through_every_format(case):
    judge = Judge(*case.make())
    for form in FORMS:
        outcome = judge.judge(form)
        assert outcome.kind != "failed", f"{form.name}: {outcome.detail}"
