"""Whose time it is: names that the runtime changed lead back to the node they come from."""

import numpy as np
import pytest
from onnxq.graph.text import model_from_text
from onnxq.runtime.attribution import node_times
from onnxq.runtime.profile import NodeTime
from onnxq.runtime.stopwatch import Stopwatch
from tests.support.quantizing import quantize_text

MODEL = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[1,4,8,8] x) => (float[1,4,8,8] y)
<float[4,4,3,3] w, float[4,4,3,3] v>
{ [c] a = Conv <pads = [1,1,1,1]> (x, w)  [r] b = Relu (a)  [d] e = Conv <pads = [1,1,1,1]> (b, v)  [t] y = Tanh (e) }
"""


def time(node, microseconds):
    return NodeTime(node=node, op="", provider="", microseconds=microseconds, inputs=(), outputs=())


@pytest.mark.parametrize(
    ("node", "output", "owner"),
    [
        ("b_nchwc", "reorder_token_3", "r"),  # blocked layout: called after the value
        ("d_token_7", "d", "d"),  # channels last: called after the node
        ("x/quantized/QuantizeLinear", "b/quantized", "r"),  # the value goes before the name
        ("BiasGelu", "e", "d"),
        ("c/MatMulScaleFusion/", "other", "c"),
    ],
)
def test_names_lead_back(node, output, owner):
    optimized = model_from_text(MODEL)
    made = optimized.graph[1]
    made.name, made.outputs[0].name = node, output
    assert node_times(model_from_text(MODEL), optimized, [time(node, 5.0)]) == {owner: 5.0}


def test_what_has_no_name_counts_for_what_it_reads_from():
    optimized = model_from_text(MODEL)
    relu, tail = optimized.graph[1], optimized.graph[3]
    relu.name, relu.outputs[0].name = "ReorderOutput", "reorder"
    tail.name = "t"
    found = node_times(
        model_from_text(MODEL), optimized, [time("ReorderOutput", 2.0), time("c", 3.0), time("gone", 9.0)]
    )
    assert found == {"c": 5.0}


def test_a_stopwatch_tells_the_nodes_of_both_forms():
    done = quantize_text(MODEL)
    watch = Stopwatch(done.feeds, names=done.float_model, budget=0.01)
    for model in (done.float_model, done.model):
        found = watch.times(model, 1)
        assert "t" in found
        assert set(found) <= {"c", "r", "d", "t"}
        assert min(found.values()) >= 0
    timing = watch.race([done.float_model, done.model], 1)
    assert timing.seconds.shape[1] == 2
    assert np.isfinite(timing.noise)
