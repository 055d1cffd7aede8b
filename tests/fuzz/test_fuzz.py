"""A hundred random graphs; thousands are a command, `python -m tests.fuzz`."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.corpus.formats import FORMATS
from tests.corpus.judge import Judge
from tests.fuzz.graphs import graphs


@pytest.mark.timeout(600)
@settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs(), st.sampled_from(FORMATS))
def test_a_random_graph_comes_through(drawn, fmt):
    judge = Judge(*drawn)
    assert not judge.complaint  # the graph itself is valid
    outcome = judge.judge(fmt)
    assert outcome.kind != "failed", outcome.detail
