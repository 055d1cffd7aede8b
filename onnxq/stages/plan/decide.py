"""The planner itself: from what could run quantized to one decision and one reason for every node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.calibrators import Calibrator, make_calibrator, reads_histograms
from onnxq.graph.fingerprint import fingerprint
from onnxq.ops.quantized import MATMUL_NBITS
from onnxq.passes.read.qdq import Imported
from onnxq.stages.plan.clamped import with_outputs_for_clamps
from onnxq.stages.plan.dynamic_cost import without_costly
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.examined import Examined
from onnxq.stages.plan.float_types import with_float_types
from onnxq.stages.plan.granularity import without_channels
from onnxq.stages.plan.imported import ImportedTensors
from onnxq.stages.plan.observed import compared, unknown_ranges, without_unfit
from onnxq.stages.plan.outliers import FEATURES, share_in_float
from onnxq.stages.plan.placement import Placement, place
from onnxq.stages.plan.rules import NodeRequest
from onnxq.stages.plan.tensors import Tensors
from onnxq.stages.plan.tied_tables import with_codes_of_products
from onnxq.stages.plan.weight_inputs import WeightInputs, few_rows
from onnxq.targets import Target
from onnxq.types.accuracy import ROUNDS
from onnxq.types.format import Format
from onnxq.types.plan import IMPORTED, Action, Decision, Plan, Reason
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir


def uses_histograms(recipe: Recipe, target: Target) -> bool:
    """Whether a plan needs more of the statistics than extremes."""
    calibrator = make_calibrator(recipe.calibrator.name, recipe.calibrator.options)
    return reads_histograms(calibrator) or any(row.pairs for row in target.rows)


def needed_tensors(examined: Examined, statistics: Statistics) -> frozenset[str]:
    """Return the names of the tensors whose values a plan uses, where of all others the extents are enough.

    They are a part of `examined.observed`: what is cheaper in float needs no range. Planning with their statistics may
    need a few more, where a node turns out unfit and its neighbours come to another border.

    Args:
        examined: the nodes.
        statistics: of all that is `observed`; of some no more than `shapes` need be known.
    """
    entries, placement, tensors = _placed(examined, statistics, _any_range)
    names: set[str] = set()
    for entry in entries:
        _decide(entry, placement, tensors, examined.target)
        if isinstance(entry, Candidate) and (entry.name in placement.codes or not entry.request.format.static):
            names.update(compared(entry) if entry.request.format.static else ())
            names.update(name for slot in entry.weights for name in examined.weight_inputs.tensors(entry, slot))
    return frozenset(
        names | {plan.tensor for plan in tensors.planned().values() if plan.params is not None and plan.shares is None}
    )


def make_plan(examined: Examined, statistics: Statistics) -> Plan:
    """Decide what happens to every node of a prepared model.

    Args:
        examined: the nodes, with what is wanted and where it runs.
        statistics: of at least what is `observed`.

    Raises:
        RecipeError: a rule names an operator or node that does not exist, or the calibrator is unknown.
    """
    model, recipe, target = examined.model, examined.recipe, examined.target
    calibrator = make_calibrator(recipe.calibrator.name, recipe.calibrator.options)
    entries, placement, tensors = _placed(examined, statistics, calibrator)
    decisions = tuple(_with_request(_decide(entry, placement, tensors, target), entry.request) for entry in entries)
    plan = Plan(
        format=recipe.format,
        target=recipe.target,
        fingerprint=fingerprint(model),
        times=target.timing.source,
        decisions=decisions,
        tensors=tensors.planned(),
        warnings=(
            *examined.warnings,
            *tensors.warnings,
            *few_rows(tensors.shortages.values()),
            *without_channels(tensors.one_scale, target),
            *unknown_ranges(model, entries),
            *_without_effect(decisions, recipe),
            *_unsigned(entries, decisions),
        ),
    )
    return with_float_types(plan, model, recipe, target)


def make_imported_plan(
    model: ir.Model, examined: Sequence[Candidate | FloatNode], imported: Imported, recipe: Recipe, target: Target
) -> Plan:
    """Plan what was imported quantized: nothing is calibrated, and what can be written in the recipe's format is.

    Args:
        model: with imported nodes as float ones. examined: every node; candidates are imported nodes.
        imported: their codes and parameters. recipe: names the format to write. target: what will run the model.
    """
    placement = Placement(
        codes=frozenset(entry.name for entry in examined if isinstance(entry, Candidate)),
        absorbed={group.clamp: name for name, group in imported.groups.items() if group.clamp is not None},
        times={},
    )
    parameters = ImportedTensors(imported, target)
    statistics = Statistics(fingerprint="")
    tensors = Tensors(
        model,
        statistics,
        _any_range,
        placement,
        examined,
        target=target,
        inputs=WeightInputs(()),
        imported=parameters,
    )
    decisions = []
    for entry in examined:
        decision = _decide(entry, placement, tensors, target)
        if isinstance(entry, Candidate):
            text = parameters.kernel_text(decision.inputs.values(), decision.kernel or "")
            reason = Reason(code=IMPORTED, text="; ".join((text, *entry.written.notes)))
            decision = replace(decision, reason=reason)
        decisions.append(decision)
    return Plan(
        format=recipe.format,
        target=target.name,
        fingerprint=fingerprint(model),
        decisions=tuple(decisions),
        tensors=tensors.planned(),
        warnings=parameters.warnings,
    )


def _placed(
    examined: Examined, statistics: Statistics, calibrator: Calibrator
) -> tuple[list[Candidate | FloatNode], Placement, Tensors]:
    """Return every node as far as statistics allow it to run quantized, those that do, and their tensors."""
    examined.check()
    timing, everywhere = examined.target.timing, examined.recipe.placement == "everywhere"
    fit = with_codes_of_products(without_unfit(with_outputs_for_clamps(examined.entries), statistics))
    entries = list(without_costly(fit, statistics, timing, everywhere=everywhere))
    placement = place(entries, statistics, timing, everywhere=everywhere)
    tensors = Tensors(
        examined.model,
        statistics,
        calibrator,
        placement,
        entries,
        target=examined.target,
        inputs=examined.weight_inputs,
    )
    return entries, placement, tensors


def _any_range(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """Stand in for a calibrator where only the names of the tensors matter."""
    return Range(low=-1.0, high=1.0)


def _decide(entry: Candidate | FloatNode, placement: Placement, tensors: Tensors, target: Target) -> Decision:
    if isinstance(entry, FloatNode):
        if entry.name not in placement.absorbed:
            return Decision(node=entry.name, op=entry.op, action=Action.KEEP, reason=entry.reason, rule=entry.rule)
        text = f"clamps the output of '{placement.absorbed[entry.name]}'; quantizing its result does that work"
        return Decision(
            node=entry.name,
            op=entry.op,
            action=Action.QUANTIZE,
            reason=Reason(code="absorbed", text=text),
            format=tensors.clamp_format(entry.node),
            rule=entry.rule,
            outputs=tensors.outputs(entry.node),
        )
    if entry.request.format.static and entry.name not in placement.codes:
        reason = Reason(code="cheaper-in-float", text=_cheaper(entry, placement))
        return Decision(node=entry.name, op=entry.op, action=Action.KEEP, reason=reason, rule=entry.request.rule)
    outputs = tensors.outputs(entry.node)
    returns_float = not outputs and entry.name not in placement.absorbed.values()
    kernel = entry.row.float_kernel if returns_float and entry.row.float_kernel else entry.row.kernel
    reads_codes = entry.request.format is not Format.WEIGHT_ONLY and bool(entry.activations)
    parts = [f"{entry.request.activations.dtype} activations"] if reads_codes else []
    if entry.weights:
        parts.append(f"{entry.request.weights.dtype} weights")
    text = f"{' x '.join(parts)} run as {entry.row.fused or kernel} on target {target.name}"
    if entry.request.unsigned:
        text += "; int8 weights with zero points would saturate, these represent the same values"
    if kernel == "DequantizeLinear" and not entry.row.fused:
        text = f"{entry.request.weights.dtype} weights; {kernel} unpacks them before {entry.op} runs in float"
    if entry.row.codebook:
        when = "the runtime decodes them, then" if entry.row.fused else "the rows looked up are decoded:"
        text = f"{entry.request.weights} weights; {when} {entry.op} runs in float"
    code, inputs = "integer-kernel" if reads_codes else "weights", tensors.inputs(entry)
    apart = tensors.in_float(inputs.values())
    if apart is not None:
        code, text = FEATURES, text + share_in_float(entry, apart)
    level = entry.written.accuracy_level if kernel == MATMUL_NBITS else None
    if level not in (None, ROUNDS):
        text = f"{text}, its inputs not rounded (accuracy level {level})"
    return Decision(
        node=entry.name,
        op=entry.op,
        action=Action.QUANTIZE,
        reason=Reason(code=code, text="; ".join(filter(None, (text, entry.note, *entry.written.notes)))),
        format=entry.request.format,
        rule=entry.request.rule,
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        accuracy_level=level,
        detours=entry.written.detours,
    )


def _with_request(decision: Decision, request: NodeRequest | None) -> Decision:
    """Say why a node has another form than was requested."""
    if request is None or request.why is None or decision.action is not Action.QUANTIZE:
        return decision
    code, because = request.why
    text = decision.reason.text if because is None else f"{decision.reason.text}; {because}"
    return replace(decision, reason=Reason(code=code, text=text))


def _without_effect(decisions: Sequence[Decision], recipe: Recipe) -> tuple[str, ...]:
    """Return warnings where an accuracy level is asked for that no node has a use for."""
    has_one = any(MATMUL_NBITS in (decision.kernel, decision.op.rpartition("::")[2]) for decision in decisions)
    lacking = [("", recipe.accuracy_level)] if not has_one else []
    for index, rule in enumerate(recipe.rules):
        meant = (each.kernel for each in decisions if rule.match.covers(each.op, each.node))
        if not rule.optional and not rule.from_guard and MATMUL_NBITS not in meant:
            lacking.append((f" of rule {index}", rule.accuracy_level))
    return tuple(
        f"`accuracy_level: {level}`{whose} has no effect: no node {'of it ' if whose else ''}runs as MatMulNBits "
        "(format weight-only, not portable), and no other kernel has it"
        for whose, level in lacking
        if level not in (None, ROUNDS)
    )


def _unsigned(examined: Sequence[Candidate | FloatNode], decisions: Sequence[Decision]) -> tuple[str, ...]:
    """Return a warning about uint8 weights that stand in for int8 ones with zero points, if there are such."""
    stand_in = {entry.name for entry in examined if isinstance(entry, Candidate) and entry.request.unsigned}
    names = [each.node for each in decisions if each.node in stand_in and each.action is Action.QUANTIZE]
    if not names:
        return ()
    shown = f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    return (
        f"weights of {shown} are uint8 instead of int8 with zero points, whose sums would saturate on this target: the "
        "values are the same, the kernels slower; `symmetric: true` gives int8",
    )


def _cheaper(entry: Candidate, placement: Placement) -> str:
    in_float, on_codes = placement.times[entry.name]
    if on_codes == in_float:
        return f"{entry.op} takes the same time quantized, and stays with its neighbours in float"
    if on_codes > in_float:
        return f"{entry.row.kernel} takes about {on_codes / 1e3:.3g} us, {entry.op} in float {in_float / 1e3:.3g} us"
    return (
        f"{entry.row.kernel} would save about {(in_float - on_codes) / 1e3:.3g} us, "
        "less than the QuantizeLinear and DequantizeLinear nodes it needs around it"
    )
