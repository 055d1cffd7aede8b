"""What the planner decides, seen in plans of small graphs."""

import numpy as np
import pytest
from onnxq.errors import RecipeError
from onnxq.graph.text import model_from_text
from onnxq.stages.plan import examine, make_plan
from onnxq.targets import targets
from onnxq.types.plan import Action, Role
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerChannel, PerTensor, QuantType
from onnxq.types.statistics import Statistics
from tests.support import quantizing
from tests.support.quantizing import plan_for, text

CONV = text("a = Conv (x, w, b) y = Relu (a)", "float[1,3,8,8] x", "float[1,4,6,6] y", "float[4,3,3,3] w, float[4] b")


def quantize_text(source, feeds=None, **options):
    """Quantize for a target whose plans are exact on every processor."""
    return quantizing.quantize_text(source, feeds, **{"target": "cpu-avx2", **options})


def test_every_node_has_a_decision_and_a_reason():
    done = quantize_text(
        text(
            "a = Conv (x, w) t = Tanh (a) s = Shape (t) r = Reshape (t, s) y = Relu (r)",
            "float[1,3,8,8] x",
            "float[?,?,?,?] y",
            "float[4,3,3,3] w",
        )
    )
    assert [entry.node for entry in done.plan.decisions] == ["Conv_0", "Tanh_1", "Shape_2", "Reshape_3", "Relu_4"]
    assert all(entry.reason.code and entry.reason.text for entry in done.plan.decisions)
    assert done.reasons()["Tanh_1"] == "no-kernel"
    assert done.reasons()["Relu_4"] == "lone-clamp"


def test_default_schemes_are_u8_activations_and_s8_weights_per_channel():
    done = quantize_text(CONV)
    tensors = done.plan.tensors
    assert (tensors["x"].scheme.dtype, tensors["x"].scheme.symmetric) == (QuantType.UINT8, False)
    assert (tensors["w"].scheme.dtype, tensors["w"].scheme.symmetric) == (QuantType.INT8, True)
    assert tensors["w"].scheme.granularity == PerChannel(axis=0)
    assert tensors["b"].role is Role.BIAS
    assert tensors["b"].scale_from == ("x", "w")


def test_a_relu_behind_a_conv_is_absorbed_with_its_zero_point_at_the_lowest_code():
    done = quantize_text(CONV)
    assert done.reasons() == {"Conv_0": "integer-kernel", "Relu_1": "absorbed"}
    assert done.decision("Conv_0").outputs == {}
    assert done.decision("Relu_1").outputs == {0: "y"}
    assert int(done.plan.tensors["y"].params.zero_point) == 0
    assert done.kernels() == {"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1}


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 1.0), (-0.3, 0.7), (0.0, 0.1)])
def test_the_codes_behind_a_clip_stay_within_its_bounds(low, high):
    """onnxruntime drops the Clip, and with it runs the convolution as integers, only if they do."""
    done = quantize_text(
        text(
            "a = Conv (x, w) y = Clip (a, lo, hi)",
            "float[1,3,8,8] x",
            "float[1,4,6,6] y",
            f"float[4,3,3,3] w, float lo = {{{low}}}, float hi = {{{high}}}",
        )
    )
    params = done.plan.tensors["y"].params
    codes = np.arange(256) - int(params.zero_point)
    values = codes * np.float64(params.scale)
    assert values.min() >= np.float32(low)
    assert values.max() <= np.float32(high)
    assert done.kernels()["QLinearConv"] == 1
    assert done.sqnr(optimize=True) > 25


def test_a_relu_that_something_else_sees_through_is_not_absorbed():
    done = quantize_text(
        text(
            "a = Conv (x, w) y = Relu (a) z = Neg (a)",
            "float[1,3,8,8] x",
            "float[1,4,6,6] y, float[1,4,6,6] z",
            "float[4,3,3,3] w",
        )
    )
    assert done.reasons()["Relu_1"] == "lone-clamp"
    assert done.decision("Conv_0").outputs == {0: "a"}


def test_symmetric_activations_leave_the_relu_in_float():
    """A zero point in the middle cannot clamp at zero."""
    done = quantize_text(CONV, activations={"dtype": "int8", "symmetric": True})
    assert done.reasons()["Relu_1"] == "lone-clamp"
    assert done.sqnr(optimize=True) > 25


def test_operators_that_move_values_share_parameters_with_their_source():
    done = quantize_text(
        text(
            "a = Conv (x, w) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a) f = Flatten (p) "
            "y = MatMul (f, v)",
            "float[1,3,8,8] x",
            "float[1,5] y",
            "float[4,3,3,3] w, float[36,5] v",
        )
    )
    tensors = done.plan.tensors
    assert tensors["p"].shares == tensors["f"].shares == "a"
    assert tensors["p"].params == tensors["f"].params == tensors["a"].params
    assert tensors["a"].shares is None
    assert done.kernels()["MatMulIntegerToFloat"] == 1


def test_a_matmul_whose_reader_is_float_returns_float():
    done = quantize_text(text("m = MatMul (x, w) y = Tanh (m)", "float[4,8] x", "float[4,6] y", "float[8,6] w"))
    assert done.decision("MatMul_0").outputs == {}
    assert done.decision("MatMul_0").kernel == "MatMulIntegerToFloat"
    assert "m" not in done.plan.tensors


def test_a_lone_add_between_float_nodes_is_not_worth_its_conversions():
    done = quantize_text(text("t = Tanh (x) a = Add (t, z) y = Tanh (a)", "float[4,8] x, float[4,8] z", "float[4,8] y"))
    assert done.reasons()["Add_1"] == "cheaper-in-float"
    assert "us" in done.decision("Add_1").reason.text


def test_placement_everywhere_quantizes_it_all_the_same():
    done = quantize_text(
        text("t = Tanh (x) a = Add (t, z) y = Tanh (a)", "float[4,8] x, float[4,8] z", "float[4,8] y"),
        placement="everywhere",
    )
    assert done.kernels()["QLinearAdd"] == 1


def test_an_add_between_convolutions_joins_them():
    done = quantize_text(
        text(
            "a = Conv (x, w) b = Conv (x, v) y = Add (a, b)",
            "float[1,3,8,8] x",
            "float[1,4,6,6] y",
            "float[4,3,3,3] w, float[4,3,3,3] v",
        )
    )
    assert done.reasons()["Add_2"] == "integer-kernel"


def test_boxes_and_scores_are_not_joined_under_one_scale():
    rng = np.random.default_rng(0)
    feeds = {
        "boxes": rng.uniform(0, 640, (1, 8, 4)).astype(np.float32),
        "scores": rng.uniform(0, 1, (1, 8, 4)).astype(np.float32),
    }
    done = quantize_text(
        text(
            "b = MatMul (boxes, w) s = MatMul (scores, v) y = Concat <axis = -1> (b, s)",
            "float[1,8,4] boxes, float[1,8,4] scores",
            "float[1,8,8] y",
            "float[4,4] w, float[4,4] v",
        ),
        feeds,
        placement="everywhere",
    )
    assert done.reasons()["Concat_2"] == "wide-range"
    assert "'s'" in done.decision("Concat_2").reason.text
    assert done.sqnr(optimize=True) > 30


@pytest.mark.parametrize("mask", [-np.inf, np.finfo(np.float32).min, -1e4])
def test_a_mask_added_before_softmax_does_not_enter_a_range(mask):
    rng = np.random.default_rng(0)
    hidden = np.zeros((1, 6, 6), np.float32)
    hidden[:, :, 4:] = mask
    feeds = {"x": rng.standard_normal((1, 6, 8)).astype(np.float32), "m": hidden}
    scores = "q = MatMul (x, w) k = Transpose <perm = [0, 2, 1]> (x) s = MatMul (q, k)"
    body = f"{scores} a = Add (s, m) p = Softmax (a) y = MatMul (p, x)"
    done = quantize_text(
        text(body, "float[1,6,8] x, float[1,6,6] m", "float[1,6,8] y", "float[8,8] w"), feeds, placement="everywhere"
    )
    assert done.reasons()["Add_3"] == "mask"
    assert done.sqnr(optimize=False) > 30
    assert done.sqnr(optimize=True) > 30


def test_a_tensor_that_never_ran_is_kept_with_its_name():
    model = model_from_text(text("y = MatMul (x, w)", "float[N,8] x", "float[N,6] y", "float[8,6] w"))
    plan = make_plan(examine(model, Recipe(), targets.get("cpu")), Statistics())
    assert [entry.reason.code for entry in plan.decisions] == ["not-observed"]
    assert "'x'" in plan.decisions[0].reason.text


def test_gemm_bias_shapes_that_no_kernel_takes_are_named():
    done = quantize_text(text("y = Gemm (x, w, b)", "float[2,8] x", "float[2,6] y", "float[8,6] w, float[2,6] b"))
    assert done.reasons() == {"Gemm_0": "bias-shape"}
    assert "[2, 6]" in done.decision("Gemm_0").reason.text


def test_gemm_alpha_with_a_bias_stays_in_float_and_says_so():
    done = quantize_text(
        text("y = Gemm <alpha = 0.5> (x, w, b)", "float[2,8] x", "float[2,6] y", "float[8,6] w, float[6] b")
    )
    assert done.reasons() == {"Gemm_0": "condition"}
    assert "alpha = 0.5" in done.decision("Gemm_0").reason.text


def test_computed_weights_are_named():
    done = quantize_text(text("v = Neg (w) y = Conv (x, v)", "float[1,3,8,8] x, float[4,3,3,3] w", "float[1,4,6,6] y"))
    assert done.reasons()["Conv_1"] == "computed-weight"


def test_float16_is_named_as_the_reason():
    model = model_from_text(text("y = Relu (x) z = Add (x, x)", "float16[2] x", "float16[2] y, float16[2] z"))
    plan = plan_for(model, {"x": np.ones(2, np.float16)})
    assert {entry.node: entry.reason.code for entry in plan.decisions} == {"Relu_0": "no-kernel", "Add_1": "type"}


def test_per_channel_needs_opset_13():
    done = quantize_text(text("y = Conv (x, w)", "float[1,3,8,8] x", "float[1,4,6,6] y", "float[4,3,3,3] w", opset=11))
    assert done.plan.tensors["w"].scheme.granularity == PerTensor()
    assert any("Conv_0" in warning for warning in done.plan.warnings)
    assert done.sqnr(optimize=True) > 25


class TestRules:
    BODY = text(
        "a = MatMul (x, w) t = Tanh (a) y = MatMul (t, v)", "float[4,8] x", "float[4,8] y", "float[8,8] w, float[8,8] v"
    )

    def test_a_rule_keeps_a_node_in_float(self):
        done = quantize_text(self.BODY, rules=[{"match": {"name": "MatMul_2"}, "keep": "float"}])
        assert done.decision("MatMul_2").action is Action.KEEP
        assert done.decision("MatMul_2").rule == 0
        assert done.decision("MatMul_0").action is Action.QUANTIZE

    def test_the_last_match_wins(self):
        rules = [
            {"match": {"op": "MatMul"}, "keep": "float"},
            {"match": {"name": "MatMul_2"}, "weights": {"granularity": "per-tensor"}},
        ]
        done = quantize_text(self.BODY, rules=rules)
        assert done.decision("MatMul_0").action is Action.KEEP
        assert done.plan.tensors["v"].scheme.granularity == PerTensor()

    def test_a_tensor_read_in_two_schemes_is_quantized_twice(self):
        body = text(
            "y = MatMul (x, w) z = MatMul (x, v)",
            "float[4,8] x",
            "float[4,8] y, float[4,8] z",
            "float[8,8] w, float[8,8] v",
        )
        done = quantize_text(body, rules=[{"match": {"name": "MatMul_1"}, "activations": {"dtype": "int8"}}])
        assert done.decision("MatMul_0").inputs[0] == "x"
        assert done.decision("MatMul_1").inputs[0] == "x@int8-asymmetric"
        assert done.sqnr(optimize=False) > 30
        assert done.sqnr(optimize=True) > 30

    def test_misspelt_operator(self):
        with pytest.raises(RecipeError, match="unknown operator type 'MatMull'; did you mean 'MatMul'"):
            quantize_text(self.BODY, rules=[{"match": {"op": "MatMull"}, "keep": "float"}])

    def test_misspelt_node(self):
        with pytest.raises(RecipeError, match=r"no node is called 'MatMul_3'; did you mean 'MatMul_[02]'"):
            quantize_text(self.BODY, rules=[{"match": {"name": "MatMul_3"}, "keep": "float"}])

    def test_an_optional_rule_may_match_nothing(self):
        quantize_text(self.BODY, rules=[{"match": {"name": "head*"}, "keep": "float", "optional": True}])

    def test_an_operator_that_the_model_lacks_is_a_warning(self):
        done = quantize_text(self.BODY, rules=[{"match": {"op": "Conv"}, "keep": "float"}])
        assert any("no Conv" in warning for warning in done.plan.warnings)


def test_a_default_that_callers_may_override_has_no_range():
    model = model_from_text(text("y = MatMul (x, w) z = Relu (y)", "float[1,8] x", "float[1,8] z", "float[8,8] w"))
    model.graph.inputs.append(model.graph.initializers["w"])
    made = plan_for(model, {"x": np.ones((1, 8), np.float32)}, placement="everywhere")
    assert made.decisions[0].reason.code == "default"
    assert "'w'" in made.decisions[0].reason.text


def test_what_is_moved_from_constants_alone_is_no_activation():
    body = "t = Transpose <perm = [1,0]> (w) c = Concat <axis = 0> (t, t) u = Unsqueeze (c, a) y = MatMul (x, u)"
    made = plan_for(
        model_from_text(text(body, "float[1,1,16] x", "float[1,1,8] y", "float[8,8] w, int64[1] a = {0}")),
        {"x": np.ones((1, 1, 16), np.float32)},
        placement="everywhere",
    )
    codes = {entry.op: entry.reason.code for entry in made.decisions if entry.op != "MatMul"}
    assert codes == {"Transpose": "constant", "Concat": "constant", "Unsqueeze": "constant"}


def test_a_rule_may_mean_products_of_two_computed_tensors_only():
    source = text("h = MatMul (x, w) y = MatMul (h, z)", "float[8,8] x, float[8,8] z", "float[8,8] y", "float[8,8] w")
    for weighted, kept in ((False, ["y"]), (True, ["h"])):
        rule = {"match": {"op": "MatMul", "weighted": weighted}, "keep": "float"}
        quantized = quantize_text(source, placement="everywhere", rules=[rule])
        assert [d.node for d in quantized.plan.decisions if d.reason.code == "rule"] == [
            node.name for node in quantized.float_model.graph if node.outputs[0].name in kept
        ]


BLOCKS = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[4,64] x) => (float[4,64] y) <float[64,64] w1, float[64,64] w2>
{ [m1] a = MatMul (x, w1)  [t] b = Tanh (a)  [m2] y = MatMul (b, w2) }
"""


def test_a_rule_gives_its_nodes_an_accuracy_level_of_their_own():
    rule = {"match": {"name": "m2"}, "accuracy_level": 1}
    done = quantize_text(BLOCKS, format="weight-only", rules=[rule])
    assert {node: done.decision(node).accuracy_level for node in ("m1", "m2")} == {"m1": 4, "m2": 1}
    levels = {node.name: node.attributes.get_int("accuracy_level") for node in done.model.graph if node.name != "t"}
    assert levels == {"m1": 4, "m2": 1}
    assert "not rounded (accuracy level 1)" in done.decision("m2").reason.text
    assert not any("no effect" in warning for warning in done.plan.warnings)


def test_an_accuracy_level_of_a_rule_that_nothing_has_a_use_for_is_told():
    rule = {"match": {"name": "m2"}, "accuracy_level": 1}
    (warning,) = (text for text in quantize_text(BLOCKS, rules=[rule]).plan.warnings if "no effect" in text)
    assert "`accuracy_level: 1` of rule 0" in warning


def test_a_form_that_a_guard_chose_says_why():
    rule = {"match": {"name": "m2"}, "weights": "uint8", "why": "kernel-fault", "because": "12 dB as served"}
    done = quantize_text(BLOCKS, rules=[rule], placement="everywhere")
    decision = done.decision("m2")
    assert (decision.action, decision.reason.code) == ("quantize", "kernel-fault")
    assert decision.reason.text.startswith("uint8 activations x uint8 weights run as")
    assert decision.reason.text.endswith("; 12 dB as served")
    assert done.decision("m1").reason.code == "integer-kernel"


def test_a_node_that_a_guard_put_in_float_says_why():
    rule = {"match": {"name": "m2"}, "keep": "kernel-fault", "because": "12 dB as served"}
    done = quantize_text(BLOCKS, rules=[rule], placement="everywhere")
    assert (done.decision("m2").reason.code, done.decision("m2").reason.text) == ("kernel-fault", "12 dB as served")
