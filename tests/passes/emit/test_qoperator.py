"""The QOperator emitter: its graphs, and their agreement with the QDQ form of the same plan."""

import dataclasses
import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxq
import pytest
from onnx.reference import ReferenceEvaluator
from onnxq.errors import PassError
from onnxq.graph.linear import CONTRIB
from onnxq.graph.text import model_from_text
from onnxq.ops.quantized import QUANTIZED_OPERATORS
from onnxq.runtime.mapping import runs_as
from onnxq.runtime.readback import optimized_graph
from onnxq.runtime.session import run_model
from onnxq.stages.rewrite import rewrite
from onnxq.targets import targets
from onnxq.types.format import Format
from onnxq.types.plan import Plan
from onnxq.types.scheme import PerChannel, QuantType
from tests.support.operators import QOPERATOR
from tests.support.quantizing import Quantized, plan_for, quantize_model, quantize_text, text
from tests.support.written import BRANCHES, FEEDS, initializers, lines, node

import models

# Small normally distributed tensors keep 34 to 50 dB at 8 bits; a wrong scale or zero point leaves less than 20.
_FAITHFUL = 33.0


def emit(source: str, feeds=None, **options) -> Quantized:
    return quantize_text(source, feeds, format="qoperator", **{"placement": "everywhere", **options})


def operators(model: ir.Model) -> list[str]:
    return [entry.op_type for entry in model.graph]


def test_two_branches_joined_by_an_add_node_by_node():
    done = emit(BRANCHES)
    assert lines(done.model) == [
        "x/quantized = QuantizeLinear (x, x/scale, x/zero_point)",
        "r/quantized = QLinearConv (x/quantized, x/scale, x/zero_point, w1/quantized, w1/scale, w1/zero_point, "
        "r/scale, r/zero_point, b1/quantized)",
        "c/quantized = QLinearConv (r/quantized, r/scale, r/zero_point, w2/quantized, w2/scale, w2/zero_point, "
        "c/scale, c/zero_point, b2/quantized)",
        "d/quantized = QLinearConv (x/quantized, x/scale, x/zero_point, w3/quantized, w3/scale, w3/zero_point, "
        "d/scale, d/zero_point)",
        "y/quantized = QLinearAdd (c/quantized, c/scale, c/zero_point, d/quantized, d/scale, d/zero_point, "
        "y/scale, y/zero_point)",
        "y = DequantizeLinear (y/quantized, y/scale, y/zero_point)",
    ]
    assert [entry.name for entry in done.model.graph][1:5] == ["Conv_0", "Conv_2", "Conv_3", "Add_4"]
    assert node(done.model, "Conv_0").attributes["pads"].as_ints() == (1, 1, 1, 1)
    stored = initializers(done)
    activations = {f"{key}/{part}" for key in ("x", "r", "c", "d", "y") for part in ("scale", "zero_point")}
    weights = {f"{key}/{part}" for key in ("w1", "w2", "w3") for part in ("quantized", "scale", "zero_point")}
    assert set(stored) == activations | weights | {"b1/quantized", "b2/quantized"}
    assert {stored[f"{key}/zero_point"].dtype for key in ("x", "r", "c", "d", "y")} == {np.dtype(np.uint8)}
    assert {stored[f"{key}/quantized"].dtype for key in ("w1", "w2", "w3")} == {np.dtype(np.int8)}
    assert {stored[f"{key}/quantized"].dtype for key in ("b1", "b2")} == {np.dtype(np.int32)}
    assert done.model.opset_imports[CONTRIB] == 1
    assert done.sqnr(optimize=False) > _FAITHFUL
    assert done.sqnr(optimize=True) > _FAITHFUL


def test_both_formats_store_the_same_codes():
    codes, pairs = initializers(emit(BRANCHES)), initializers(quantize_text(BRANCHES, placement="everywhere"))
    for name, array in codes.items():
        np.testing.assert_array_equal(array, pairs[name])


_WEIGHTED = [
    ("uint8", "int8", "per-channel"),
    ("uint8", "int8", "per-tensor"),
    ("uint8", "uint8", "per-channel"),
    ("int8", "int8", "per-channel"),
]
_WEIGHTLESS = [("uint8", "int8", "per-tensor"), ("int8", "int8", "per-tensor")]
_CASES = [
    (name, *types)
    for name, operator in QOPERATOR.items()
    for types in (_WEIGHTED if operator.weighted else _WEIGHTLESS)
]


@pytest.mark.parametrize(("name", "activations", "weights", "granularity"), _CASES)
def test_every_family_agrees_with_its_qdq_form(name, activations, weights, granularity):
    operator = QOPERATOR[name]
    options = {
        "placement": "everywhere",
        "calibrator": "minmax",
        "activations": {"dtype": activations},
        "weights": {"dtype": weights, "granularity": granularity, "symmetric": weights == "int8"},
    }
    done = emit(operator.text(), **options)
    written = set(operators(done.model)) - {"QuantizeLinear", "DequantizeLinear", "Greater"}
    assert written == operator.qoperator
    assert done.sqnr(optimize=False) > _FAITHFUL
    assert done.sqnr(optimize=True) > _FAITHFUL
    if granularity == "per-channel" and not operator.per_channel_in_qdq:
        return
    pairs, _ = rewrite(done.float_model, as_pairs(done.plan))
    expected = run_model(pairs, dict(done.feeds), optimize=False)
    params = done.plan.tensors["y"].params if "y" in done.plan.tensors else None
    step = 1e-5 if params is None else float(params.scale)
    for optimize in (False, True):
        actual = run_model(done.model, dict(done.feeds), optimize=optimize)
        for output in expected:
            np.testing.assert_allclose(actual[output], expected[output], rtol=0, atol=step * (1 + 1e-5))


def as_pairs(plan: Plan) -> Plan:
    """Return a plan with the same codes in format qdq, whose operators compute in float while nothing is fused."""
    decisions = (dataclasses.replace(entry, format=entry.format and Format.QDQ) for entry in plan.decisions)
    return dataclasses.replace(plan, format=Format.QDQ, decisions=tuple(decisions))


_STANDARD = {"QLinearConv", "QLinearMatMul", "Transpose"}  # what onnx.reference implements


@pytest.mark.parametrize("name", [name for name, operator in QOPERATOR.items() if operator.qoperator <= _STANDARD])
def test_the_reference_evaluator_agrees(name):
    """Requantizing rounds a product in float: an order of multiplications apart, results differ by the last step.

    The evaluator knows scales per channel in convolutions over images only.
    """
    source = QOPERATOR[name].text(opset=21)
    image = QOPERATOR[name].qoperator == {"QLinearConv"} and name not in ("conv-1d", "conv-3d")
    done = emit(source, weights={"granularity": "per-channel" if image else "per-tensor"})
    actual = run_model(done.model, dict(done.feeds), optimize=False)
    expected = ReferenceEvaluator(ir.to_proto(done.model)).run(None, dict(done.feeds))[0]
    step = float(done.plan.tensors["y"].params.scale)
    np.testing.assert_allclose(actual["y"], expected, rtol=0, atol=step * (1 + 1e-5))
    assert np.mean(np.abs(actual["y"] - expected) > step / 2) < 0.02


def test_every_kernel_of_a_target_has_a_form():
    """A node is planned in this format only where a row says so: each such row must be writable."""
    for name in targets.names():
        for row in targets.get(name).rows:
            if Format.QOPERATOR in row.formats:
                assert row.kernel in QUANTIZED_OPERATORS or row.kernel == row.op, row
                assert not row.float_kernel or QUANTIZED_OPERATORS[row.float_kernel].float_output, row


def test_what_is_read_in_float_is_dequantized_once():
    done = emit(
        text(
            "a = Conv (x, w) t = Tanh (a) u = Erf (a) c = Conv (a, v) y = Sum (t, u, c)",
            "float[1,3,8,8] x",
            "float[1,4,6,6] y, float[1,4,6,6] a",
            "float[4,3,3,3] w, float[4,4,1,1] v",
        )
    )
    assert operators(done.model).count("QuantizeLinear") == 1
    assert operators(done.model).count("DequantizeLinear") == 2
    assert [value.name for value in done.model.graph.outputs] == ["y", "a"]
    assert node(done.model, "Tanh_1").inputs[0] is node(done.model, "Erf_2").inputs[0]
    assert node(done.model, "Tanh_1").inputs[0].name == "a"
    assert done.sqnr(optimize=True) > _FAITHFUL


def test_values_seen_from_a_branch_are_the_dequantized_ones():
    branch = "(float[1,4,6,6] {0}) {{ {0} = {1} (a) }}"
    done = emit(
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
    (inner,) = conditional.attributes["then_branch"].as_graph()
    assert inner.inputs[0].producer().op_type == "DequantizeLinear"
    assert done.sqnr(optimize=True) > _FAITHFUL


def test_a_tensor_in_two_schemes_is_quantized_a_second_time():
    done = emit(
        text(
            "a = Conv (x, w) y = Conv (a, v) z = Conv (a, u)",
            "float[1,3,8,8] x",
            "float[1,4,6,6] y, float[1,4,6,6] z",
            "float[4,3,3,3] w, float[4,4,1,1] v, float[4,4,1,1] u",
        ),
        rules=[{"match": {"name": "Conv_2"}, "activations": {"dtype": "int8"}}],
    )
    second = node(done.model, "Conv_2").inputs[0]
    assert second.name == "a@int8-asymmetric/quantized"
    assert second.dtype == ir.DataType.INT8
    assert second.producer().inputs[0].producer().op_type == "DequantizeLinear"
    assert node(done.model, "Conv_1").inputs[0].name == "a/quantized"
    assert done.sqnr(optimize=False) > _FAITHFUL
    assert done.sqnr(optimize=True) > _FAITHFUL


def test_constants_that_are_shared_are_stored_once():
    done = emit(
        text(
            "y = MatMul (x, w) z = MatMul (k, w)",
            "float[2,4,8] x, float[2,4,8] k",
            "float[2,4,6] y, float[2,4,6] z",
            "float[2,8,6] w",
        )
    )
    assert [name for name in initializers(done) if name.startswith("w")] == ["w/quantized", "w/scale", "w/zero_point"]
    assert initializers(done)["w/scale"].shape == (2, 1, 6)
    assert done.sqnr(optimize=True) > _FAITHFUL


def test_one_bias_in_two_scales_though_the_names_are_taken():
    model = model_from_text(
        text(
            "a = Conv (x, w, b) c = Conv (z, v, b) t = Neg (k) s = Add (a, c) y = Sum (s, t)",
            "float[1,3,8,8] x, float[1,3,8,8] z, float[1,4,6,6] k",
            "float[1,4,6,6] y",
            "float[4,3,3,3] w, float[4,3,3,3] v, float[4] b",
        )
    )
    next(entry for entry in model.graph if entry.op_type == "Neg").outputs[0].name = "b/quantized"
    done = quantize_model(model, format="qoperator")
    biases = [array for array in initializers(done).values() if array.dtype == np.int32]
    assert len(biases) == 2
    assert not np.array_equal(*biases)
    assert done.sqnr(optimize=True) > _FAITHFUL


def test_a_float_weight_stays_only_where_something_reads_it():
    done = emit(
        text("e = Gather (w, i) y = MatMul (e, w)", "int64[4] i", "float[4,8] y", "float[8,8] w"),
        {"i": np.arange(4)},
        rules=[{"match": {"op": "Gather"}, "keep": "float"}],
    )
    assert {"w", "w/quantized"} < set(initializers(done))
    assert done.sqnr(optimize=True) > _FAITHFUL


def test_operators_of_the_standard_need_no_import():
    done = emit(text("y = Conv (x, w)", "float[1,3,8,8] x", "float[1,4,6,6] y", "float[4,3,3,3] w"))
    model = model_from_text(QOPERATOR["conv-2d"].text())
    del model.opset_imports[CONTRIB]
    plain = quantize_model(model, format="qoperator")
    assert CONTRIB not in plain.model.opset_imports
    assert operators(done.model) == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]


def test_the_order_of_decisions_does_not_matter():
    plan = plan_for(model_from_text(BRANCHES), FEEDS, format="qoperator")
    forward, _ = rewrite(model_from_text(BRANCHES), plan)
    backward, _ = rewrite(model_from_text(BRANCHES), dataclasses.replace(plan, decisions=plan.decisions[::-1]))
    assert lines(backward) == lines(forward)


def test_the_same_plan_gives_the_same_bytes():
    plan = plan_for(model_from_text(BRANCHES), FEEDS, format="qoperator")
    first, second = (ir.to_proto(rewrite(model_from_text(BRANCHES), plan)[0]) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_every_node_is_found_on_integers_in_the_optimized_graph():
    done = emit(QOPERATOR["moves"].text())
    found = runs_as(done.model, optimized_graph(done.model, layout=False))
    assert {entry.node for entry in done.plan.decisions} == set(found)
    assert all(entry.integer for entry in found.values())


class TestAPlanThatDoesNotFit:
    def refused(self, source, change=lambda plan: plan, feeds=None, **options):
        model = model_from_text(source)
        if feeds is None:
            rng = np.random.default_rng(0)
            feeds = {
                value.name: rng.standard_normal([int(dim) for dim in value.shape]).astype(np.float32)
                for value in model.graph.inputs
            }
        plan = change(plan_for(model, feeds, format="qoperator", placement="everywhere", **options))
        with pytest.raises(PassError) as caught:
            rewrite(model, plan)
        return str(caught.value)

    def with_params(self, key, **changes):
        def change(plan):
            tensor = plan.tensors[key]
            params = dataclasses.replace(tensor.params, **changes)
            return dataclasses.replace(plan, tensors={**plan.tensors, key: dataclasses.replace(tensor, params=params)})

        return change

    def test_a_clamp_that_the_codes_do_not_do(self):
        change = self.with_params("y", zero_point=np.asarray(10, np.int32))
        message = self.refused(QOPERATOR["conv-relu"].text(), change)
        assert "codes of 'y' represent" in message
        assert "'Relu_1' (Relu)" in message

    def test_a_move_that_would_change_parameters(self):
        change = self.with_params("y", scale=np.asarray(1.5, np.float32))
        assert "'MaxPool_0' (MaxPool) moves codes" in self.refused(QOPERATOR["max-pool"].text(), change)

    def with_schemes(self, **schemes):
        def change(plan):
            tensors = dict(plan.tensors)
            for key, changes in schemes.items():
                scheme = dataclasses.replace(tensors[key].scheme, **changes)
                params = tensors[key].params and dataclasses.replace(tensors[key].params, scheme=scheme)
                tensors[key] = dataclasses.replace(tensors[key], scheme=scheme, params=params)
            return dataclasses.replace(plan, tensors=tensors)

        return change

    PRODUCT = text("y = MatMul (x, w)", "float[4,16] x", "float[4,8] y", "float[16,8] w")

    def test_int8_activations_with_uint8_weights(self):
        change = self.with_schemes(x={"dtype": QuantType.INT8}, w={"dtype": QuantType.UINT8, "symmetric": False})
        message = self.refused(self.PRODUCT, change)
        assert "MatMulIntegerToFloat multiplies int8 activations with int8 weights only" in message

    def test_weights_per_channel_along_another_axis(self):
        message = self.refused(self.PRODUCT, self.with_schemes(w={"granularity": PerChannel(axis=0)}))
        assert "MatMulIntegerToFloat takes weights per channel along axis 1 only, not 0" in message

    def test_an_absorbed_clamp_without_a_quantized_output(self):
        def change(plan):
            relu = next(decision for decision in plan.decisions if decision.op == "Relu")
            others = tuple(decision for decision in plan.decisions if decision is not relu)
            return dataclasses.replace(plan, decisions=(*others, dataclasses.replace(relu, outputs={})))

        assert "names no kernel for it" in self.refused(QOPERATOR["conv-relu"].text(), change)

    @pytest.mark.parametrize("kernel", ["QLinearTanh", "QAttention"])  # the latter computes no operator of the standard
    def test_a_kernel_that_has_no_form(self, kernel):
        def change(plan):
            (decision,) = plan.decisions
            return dataclasses.replace(plan, decisions=(dataclasses.replace(decision, kernel=kernel),))

        assert f"kernel '{kernel}' has no form" in self.refused(QOPERATOR["sigmoid"].text(), change)

    def test_a_float_output_where_the_kernel_gives_none(self):
        def change(plan):
            (decision,) = plan.decisions
            return dataclasses.replace(plan, decisions=(dataclasses.replace(decision, outputs={}),))

        assert "float output, which QLinearSigmoid cannot give" in self.refused(QOPERATOR["sigmoid"].text(), change)


def test_a_real_model_end_to_end():
    """Both formats are quantized, served and reported, with the same errors: it is one plan and one arithmetic."""
    zoo = models.load("digits")

    def quantized(form):
        return onnxq.quantize(
            zoo.path,
            calibration=lambda: itertools.islice(zoo.calibration(), 2),
            evaluation=lambda: itertools.islice(zoo.evaluation(), 2),
            format=form,
            guard=False,
        )

    pairs, codes = quantized("qdq"), quantized("qoperator")
    onnx.checker.check_model(ir.to_proto(codes.model), full_check=True)
    (expected,), (output,) = pairs.verification.outputs, codes.verification.outputs
    assert output.sqnr_served > 30
    assert output.sqnr_plain == pytest.approx(output.sqnr_served, abs=0.5)
    assert output.sqnr_served == pytest.approx(expected.sqnr_served, abs=0.5)
    assert codes.verification.kernels.unfused == {}
    assert codes.verification.kernels.quantized_ops == pairs.verification.kernels.quantized_ops
    assert codes.quantized_bytes <= pairs.quantized_bytes < 0.3 * codes.float_bytes
    errors, known = ({error.tensor: error.sqnr for error in report.verification.tensors} for report in (codes, pairs))
    assert set(errors) == {
        codes.plan.tensors[key].tensor for entry in codes.plan.decisions for key in entry.outputs.values()
    } | {output.name}
    assert errors == pytest.approx({tensor: known[tensor] for tensor in errors}, abs=1.0)


def test_nodes_whose_values_the_runtime_renames_are_found_on_integers():
    """onnxruntime moves a Transpose through the nodes behind it, and the values between them get new names."""
    done = emit(QOPERATOR["more-moves"].text())
    renamed = done.model.clone()
    for entry in renamed.graph:
        entry.outputs[0].name = f"{entry.outputs[0].name}/new"
        entry.outputs[0].type = None
    found = runs_as(done.model, renamed)
    assert {name.partition("_")[0] for name in found} == {"Conv", "Resize", "ReduceMax", "Squeeze", "Tile"}
    assert all(entry.integer for entry in found.values())
