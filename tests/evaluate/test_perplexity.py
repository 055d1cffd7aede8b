"""Perplexity by the evaluation data, against the definition in float64, on a language model of one table."""

import math

import numpy as np
import onnxq
import pytest
from onnxq.data import open_source, signature
from onnxq.errors import RecipeError, VerificationError
from onnxq.evaluate.perplexity import Perplexity
from onnxq.graph.text import model_from_text
from onnxq.runtime.session import open_session

BIGRAMS = """
<ir_version: 9, opset_import: ["" : 17]>
g (int64[batch,sequence] input_ids, int64[batch,sequence] attention_mask) => (float[batch,sequence,11] logits)
<float[11,16] table, float[16,11] head>
{ [embed] e = Gather (table, input_ids)  [head] logits = MatMul (e, head) }
"""


@pytest.fixture
def model():
    return model_from_text(BIGRAMS)


@pytest.fixture
def feeds():
    ids = np.random.default_rng(0).integers(0, 11, (3, 9))
    mask = np.ones_like(ids)
    mask[1, 6:] = 0  # the rest of that row is padding
    return {"input_ids": ids, "attention_mask": mask}


def test_the_mean_surprise_of_every_token_but_the_first(model, feeds):
    session = open_session(model)
    found = Perplexity(open_source([feeds], signature(model)), signature(model))(session.run)
    logits = session.run(feeds)["logits"].astype(np.float64)
    surprises = []
    for row, end in ((0, 9), (1, 6), (2, 9)):
        for place in range(1, end):
            chances = np.exp(logits[row, place - 1]) / np.exp(logits[row, place - 1]).sum()
            surprises.append(-math.log(chances[feeds["input_ids"][row, place]]))
    assert found == pytest.approx(math.exp(np.mean(surprises)), rel=1e-9)


def test_a_rise_beyond_the_limit_fails_and_one_within_is_reported(model, feeds):
    options = {"format": "weight-only", "weights": "int8", "evaluation": [feeds], "prefer": "size"}
    report = onnxq.quantize(model, **options, max_ppl_increase="5%")
    metric = report.verification.metric
    assert metric.name == "perplexity"
    assert 1 < metric.quantized_value < 1.05 * metric.float_value
    with pytest.raises(VerificationError, match="perplexity rises from"):
        onnxq.quantize(
            model, format="weight-only", weights="uint4", evaluation=[feeds], max_ppl_increase=0, guard=False
        )


def test_a_model_that_takes_no_tokens():
    model = model_from_text(
        '<ir_version: 9, opset_import: ["" : 17]> g (float[2,3] x) => (float[2,4] y) <float[3,4] w> '
        "{ [m] y = MatMul (x, w) }"
    )
    with pytest.raises(RecipeError, match=r"takes no token ids .* its inputs are 'x'"):
        onnxq.quantize(model, max_ppl_increase="1%")


def test_a_model_that_scores_no_vocabulary(feeds):
    model = model_from_text(BIGRAMS.replace("16,11", "16,2").replace("sequence,11", "sequence,2"))
    with pytest.raises(
        RecipeError, match=r"no output scores a vocabulary at each of \[3, 9\] tokens: there are 'logits'"
    ):
        onnxq.quantize(model, format="weight-only", evaluation=[feeds], max_ppl_increase="1%")
