"""The QDQ emitter, checked on the graphs that it writes."""

import dataclasses
import re

import numpy as np
import pytest
from onnxq.errors import PassError
from onnxq.graph.text import model_from_text
from onnxq.passes import passes
from onnxq.stages.rewrite import rewrite
from tests.support.quantizing import plan_for, quantize_model, quantize_text, text
from tests.support.written import BRANCHES, FEEDS, initializers, lines, node


def test_two_branches_joined_by_an_add_node_by_node():
    done = quantize_text(BRANCHES)

    def q(key):
        return f"{key}/quantized = QuantizeLinear ({key}, {key}/scale, {key}/zero_point)"

    def dq(key):
        zero_point = "" if key.startswith("b") else f", {key}/zero_point"  # of int32 there is none
        return f"{key}/dequantized = DequantizeLinear ({key}/quantized, {key}/scale{zero_point})"

    assert sorted(lines(done.model)) == sorted(
        [
            q("x"),
            dq("x"),
            *(dq(key) for key in ("w1", "b1", "w2", "b2", "w3")),
            "a = Conv (x/dequantized, w1/dequantized, b1/dequantized)",
            "r = Relu (a)",
            q("r"),
            dq("r"),
            "c = Conv (r/dequantized, w2/dequantized, b2/dequantized)",
            q("c"),
            dq("c"),
            "d = Conv (x/dequantized, w3/dequantized)",
            q("d"),
            dq("d"),
            "y/float = Add (c/dequantized, d/dequantized)",
            "y/quantized = QuantizeLinear (y/float, y/scale, y/zero_point)",
            "y = DequantizeLinear (y/quantized, y/scale, y/zero_point)",
        ]
    )
    stored = initializers(done)
    parameters = {f"{key}/{part}" for key in ("x", "r", "c", "d", "y") for part in ("scale", "zero_point")}
    constants = {f"{key}/{part}" for key in ("w1", "b1", "w2", "b2", "w3") for part in ("quantized", "scale")}
    assert set(stored) == parameters | constants | {f"{key}/zero_point" for key in ("w1", "w2", "w3")}
    for key in ("x", "r", "c", "d", "y"):
        assert stored[f"{key}/zero_point"].dtype == np.uint8
        assert stored[f"{key}/zero_point"].shape == stored[f"{key}/scale"].shape == ()
    for key, channels in (("w1", 6), ("w2", 4), ("w3", 4)):
        assert stored[f"{key}/quantized"].dtype == stored[f"{key}/zero_point"].dtype == np.int8
        assert stored[f"{key}/scale"].shape == (channels,)
        assert node(done.model, f"{key}/dequantized/DequantizeLinear").attributes["axis"].as_int() == 0
    for bias, activation, weight in (("b1", "x", "w1"), ("b2", "r", "w2")):
        assert stored[f"{bias}/quantized"].dtype == np.int32
        np.testing.assert_array_equal(
            stored[f"{bias}/scale"], stored[f"{activation}/scale"] * stored[f"{weight}/scale"]
        )
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30
    assert done.kernels() == {"QLinearConv": 3, "QuantizeLinear": 1, "QLinearAdd": 1, "DequantizeLinear": 1}


def test_stored_codes_are_the_weights_to_half_a_step():
    done = quantize_text(BRANCHES)
    stored = initializers(done)
    weight = done.float_model.graph.initializers["w1"].const_value.numpy()
    scale = stored["w1/scale"].reshape(-1, 1, 1, 1)
    assert np.abs(stored["w1/quantized"] * scale - weight).max() <= scale.max() / 2 * (1 + 1e-6)


def test_an_output_that_is_read_inside_too_keeps_its_name():
    done = quantize_text(
        text(
            "a = Conv (x, w) y = Conv (a, v)",
            "float[1,3,8,8] x",
            "float[1,4,6,6] a, float[1,4,6,6] y",
            "float[4,3,3,3] w, float[4,4,1,1] v",
        )
    )
    assert [value.name for value in done.model.graph.outputs] == ["a", "y"]
    assert all(value.producer().op_type == "DequantizeLinear" for value in done.model.graph.outputs)
    assert node(done.model, "Conv_1").inputs[0].name == "a"


def test_one_bias_in_two_scales_is_stored_in_both_though_the_names_are_taken():
    model = model_from_text(
        text(
            "a = Conv (x, w, b) c = Conv (z, v, b) t = Neg (k) u = Abs (k) s = Add (a, c) y = Sum (s, t, u)",
            "float[1,3,8,8] x, float[1,3,8,8] z, float[1,4,6,6] k",
            "float[1,4,6,6] y",
            "float[4,3,3,3] w, float[4,3,3,3] v, float[4] b",
        )
    )
    for value, name in (("t", "b/quantized"), ("u", "b@Conv_1/quantized")):
        next(node for node in model.graph if node.outputs[0].name == value).outputs[0].name = name
    done = quantize_model(model)
    first, second = (done.decision(name).inputs[2] for name in ("Conv_0", "Conv_1"))
    assert (first, second) == ("b", "b@Conv_1")
    biases = [array for array in initializers(done).values() if array.dtype == np.int32 and array.any()]
    assert len(biases) == 2
    assert not np.array_equal(*biases)
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


def test_a_weight_read_by_two_nodes_is_stored_once():
    done = quantize_text(
        text(
            "y = MatMul (x, w) z = MatMul (k, w)",
            "float[4,8] x, float[4,8] k",
            "float[4,6] y, float[4,6] z",
            "float[8,6] w",
        )
    )
    assert [name for name in initializers(done) if name.startswith("w")] == [
        "w/quantized",
        "w/scale",
        "w/zero_point",
    ]
    assert node(done.model, "MatMul_0").inputs[1] is node(done.model, "MatMul_1").inputs[1]
    assert done.sqnr(optimize=True) > 30


def test_a_weight_that_a_float_node_reads_too_stays_beside_its_codes():
    """Looked up in float by one node, multiplied as integers by another."""
    done = quantize_text(
        text(
            "e = Gather (w, i) y = MatMul (e, w)",
            "int64[4] i",
            "float[4,8] y",
            "float[8,8] w",
        ),
        {"i": np.arange(4)},
        rules=[{"match": {"op": "Gather"}, "keep": "float"}],
    )
    assert {"w", "w/quantized"} < set(initializers(done))
    assert done.sqnr(optimize=True) > 30


def test_a_value_read_twice_by_one_node_is_quantized_once():
    done = quantize_text(
        text("a = Conv (x, w) y = Add (a, a)", "float[1,3,8,8] x", "float[1,4,6,6] y", "float[4,3,3,3] w"),
        placement="everywhere",
    )
    add = node(done.model, "Add_1")
    assert add.inputs[0] is add.inputs[1]
    assert [entry.op_type for entry in done.model.graph].count("QuantizeLinear") == 3
    assert done.sqnr(optimize=True) > 30


def test_the_order_of_decisions_does_not_matter():
    plan = plan_for(model_from_text(BRANCHES), FEEDS)
    forward, _ = rewrite(model_from_text(BRANCHES), plan)
    backward, _ = rewrite(model_from_text(BRANCHES), dataclasses.replace(plan, decisions=plan.decisions[::-1]))
    assert sorted(lines(backward)) == sorted(lines(forward))


def test_values_seen_from_a_branch_are_the_quantized_ones():
    """A value that the body of an If reads is replaced there too."""
    branch = "(float[1,4,6,6] {0}) {{ {0} = {1} (a) }}"
    done = quantize_text(
        text(
            "a = Conv (x, w) k = Greater (p, z) "
            f"y = If (k) <then_branch = t () => {branch.format('u', 'Neg')}, "
            f"else_branch = e () => {branch.format('v', 'Abs')}>",
            "float[1,3,8,8] x, float p",
            "float[1,4,6,6] y",
            "float[4,3,3,3] w, float z = {0}",
        )
    )
    (conditional,) = (entry for entry in done.model.graph if entry.op_type == "If")
    for name in ("then_branch", "else_branch"):
        (inner,) = conditional.attributes[name].as_graph()
        assert inner.inputs[0].name == "a/dequantized"
    assert done.sqnr(optimize=True) > 30


class TestAPlanThatDoesNotFit:
    @pytest.fixture
    def plan(self):
        return plan_for(model_from_text(BRANCHES), FEEDS)

    def refused(self, plan, model=None):
        with pytest.raises(PassError) as caught:
            rewrite(model or model_from_text(BRANCHES), plan)
        return str(caught.value)

    def test_a_node_of_another_model(self, plan):
        model = model_from_text(BRANCHES)
        node(model, "Conv_2").name = "elsewhere"
        assert "node 'Conv_2' (Conv), which the model does not have" in self.refused(plan, model)

    def test_an_input_that_is_empty(self, plan):
        model = model_from_text(BRANCHES)
        node(model, "Conv_0").replace_input_with(2, None)
        assert "input 2 of 'Conv_0', which is empty" in self.refused(plan, model)

    def test_a_tensor_that_the_plan_lacks(self, plan):
        tensors = {key: tensor for key, tensor in plan.tensors.items() if key != "r"}
        assert "tensor 'r'" in self.refused(dataclasses.replace(plan, tensors=tensors))

    def test_an_activation_without_parameters(self, plan):
        tensors = {**plan.tensors, "r": dataclasses.replace(plan.tensors["r"], params=None)}
        assert "activation 'r' has no parameters" in self.refused(dataclasses.replace(plan, tensors=tensors))

    def test_a_weight_that_is_no_constant(self, plan):
        model = model_from_text(BRANCHES)
        model.graph.inputs.append(model.graph.initializers["w3"])
        assert "takes 'w3' for a constant" in self.refused(plan, model)


def test_the_pass_says_whether_it_changed_anything():
    model = model_from_text(text("y = Tanh (x)", "float[2] x", "float[2] y"))
    plan = plan_for(model, {"x": np.ones(2, np.float32)})
    assert not passes.get("emit-qdq").make({"plan": plan})(model).modified


def test_new_names_stay_short_and_apart_where_the_models_are_long():
    done = quantize_text(re.sub(r"\b(w1|w2|a|r|c)\b", lambda found: "fused_" * 50 + found[1], BRANCHES))
    old = {value.name for entry in done.float_model.graph for value in entry.outputs}
    assert max(map(len, old)) > 300
    new = [value.name for entry in done.model.graph for value in entry.outputs if value.name not in old]
    assert max(map(len, [*new, *done.model.graph.initializers])) <= 80
    assert len(new) == len(set(new))
    assert done.kernels() == quantize_text(BRANCHES).kernels()
    assert done.sqnr(optimize=True) > 30
