"""The planner itself: from what could run on codes to one decision and one reason for every node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxq.calibrators import make_calibrator, reads_histograms
from onnxq.errors import RecipeError
from onnxq.graph.fingerprint import fingerprint
from onnxq.graph.names import name_of
from onnxq.ops import known_operators
from onnxq.ops.quantized import MATMUL_NBITS
from onnxq.passes.read.qdq import Imported
from onnxq.stages.plan.already_quantized import IMPORTED
from onnxq.stages.plan.candidates import Candidate, Kept, examine
from onnxq.stages.plan.clamped import with_outputs_for_clamps
from onnxq.stages.plan.copies import with_codes_of_products
from onnxq.stages.plan.dynamic_cost import without_costly
from onnxq.stages.plan.float_types import with_float_types
from onnxq.stages.plan.granularity import without_channels
from onnxq.stages.plan.imported import ImportedTensors
from onnxq.stages.plan.kernel_choice import NO_SCHEME
from onnxq.stages.plan.observed import compared, unknown_ranges, without_unfit
from onnxq.stages.plan.outliers import FEATURES, share_in_float
from onnxq.stages.plan.placement import Placement, place
from onnxq.stages.plan.rules import Wish, check_rules
from onnxq.stages.plan.tensors import Tensors
from onnxq.stages.plan.weight_inputs import Features, WeightInputs, few_rows
from onnxq.targets import Target
from onnxq.types.accuracy import ROUNDS
from onnxq.types.format import Format
from onnxq.types.plan import Action, Decision, Plan, Reason
from onnxq.types.recipe import Recipe, Rule
from onnxq.types.scheme import Range, Scheme
from onnxq.types.statistics import Statistics, TensorStatistics

if TYPE_CHECKING:
    import onnx_ir as ir


def observed_tensors(model: ir.Model, recipe: Recipe, target: Target) -> frozenset[str]:
    """Return the names of the tensors whose statistics a plan would need: calibration observes these and no others.

    Raises:
        RecipeError: a rule names an operator or node that does not exist, or no node can have the schemes wanted.
    """
    examined = list(examine(model, recipe, target))
    _check(examined, recipe)
    names = set(WeightInputs(examined).features)
    for entry in examined:
        if isinstance(entry, Candidate) and entry.wish.format.static:
            names.update(name_of(entry.node.inputs[slot]) for slot in entry.activations)
            names.update(name_of(entry.node.outputs[slot]) for slot in entry.fact.output_slots(entry.node))
        elif isinstance(entry, Kept) and entry.clamp:
            names.add(name_of(entry.node.outputs[0]))
    return frozenset(names)


def goes_by_histograms(recipe: Recipe, target: Target) -> bool:
    """Whether a plan needs more of the statistics than extremes."""
    calibrator = make_calibrator(recipe.calibrator.name, recipe.calibrator.options)
    return reads_histograms(calibrator) or any(row.pairs for row in target.rows)


def observed_features(model: ir.Model, recipe: Recipe, target: Target) -> Mapping[str, Features]:
    """Return what weight methods want to know of single features of tensors, by name; {} where they want nothing."""
    return WeightInputs(examine(model, recipe, target)).features


def needed_tensors(model: ir.Model, statistics: Statistics, recipe: Recipe, target: Target) -> frozenset[str]:
    """Return the names of the tensors whose values a plan goes by, where of all others the extents are enough.

    They are a part of `observed_tensors`: what is cheaper in float needs no range. Planning with their statistics may
    ask for a few more, where a node turns out unfit and its neighbours come to another border.

    Args:
        model: prepared. statistics: of all `observed_tensors`; of some no more than `shapes` need be known.
        recipe, target: what is wanted, and where it runs.
    """
    examined, inputs, placement, _ = _placed(model, statistics, recipe, target)
    tensors = Tensors(model, statistics, _any_range, placement, examined, target=target, inputs=inputs)
    names: set[str] = set()
    for entry in examined:
        _decide(entry, placement, tensors, target)
        if isinstance(entry, Candidate) and (entry.name in placement.codes or not entry.wish.format.static):
            names.update(compared(entry) if entry.wish.format.static else ())
            names.update(name for slot in entry.weights for name in inputs.tensors(entry, slot))
    return frozenset(
        names | {plan.tensor for plan in tensors.planned().values() if plan.params is not None and plan.shares is None}
    )


def make_plan(model: ir.Model, statistics: Statistics, recipe: Recipe, target: Target) -> Plan:
    """Decide what happens to every node of a prepared model.

    Args:
        model: prepared. statistics: of at least `observed_tensors`. recipe, target: what is wanted, and where it runs.

    Raises:
        RecipeError: a rule names an operator or node that does not exist, or the calibrator is unknown.
    """
    calibrator = make_calibrator(recipe.calibrator.name, recipe.calibrator.options)
    examined, inputs, placement, warnings = _placed(model, statistics, recipe, target)
    tensors = Tensors(model, statistics, calibrator, placement, examined, target=target, inputs=inputs)
    decisions = tuple(_with_wish(_decide(entry, placement, tensors, target), entry.wish) for entry in examined)
    plan = Plan(
        format=recipe.format,
        target=recipe.target,
        fingerprint=fingerprint(model),
        times=target.timing.source,
        decisions=decisions,
        tensors=tensors.planned(),
        warnings=(
            *warnings,
            *tensors.warnings,
            *few_rows(tensors.shortages.values()),
            *without_channels(tensors.one_scale, target),
            *unknown_ranges(model, examined),
            *_without_effect(decisions, recipe),
            *_unsigned(examined, decisions),
        ),
    )
    return with_float_types(plan, model, recipe, target)


def make_imported_plan(
    model: ir.Model, examined: Sequence[Candidate | Kept], imported: Imported, recipe: Recipe, target: Target
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
    model: ir.Model, statistics: Statistics, recipe: Recipe, target: Target
) -> tuple[list[Candidate | Kept], WeightInputs, Placement, tuple[str, ...]]:
    """Return every node as far as statistics allow it to run on codes, the weights' inputs, those that do, warnings."""
    examined = list(examine(model, recipe, target))
    inputs = WeightInputs(examined)
    warnings = _check(examined, recipe)
    examined = with_codes_of_products(without_unfit(with_outputs_for_clamps(examined), statistics))
    everywhere = recipe.placement == "everywhere"
    examined = list(without_costly(examined, statistics, target.timing, everywhere=everywhere))
    return examined, inputs, place(examined, statistics, target.timing, everywhere=everywhere), warnings


def _check(examined: Sequence[Candidate | Kept], recipe: Recipe) -> tuple[str, ...]:
    """Return warnings about a recipe; raises RecipeError where it wants what does not exist or cannot be had."""
    warnings = check_rules(recipe, [(entry.op, entry.name) for entry in examined], known_operators())
    check_possible(examined, recipe)
    return warnings


def _any_range(statistics: TensorStatistics, scheme: Scheme) -> Range:
    """Stand in for a calibrator where only the names of the tensors matter."""
    return Range(low=-1.0, high=1.0)


def _decide(entry: Candidate | Kept, placement: Placement, tensors: Tensors, target: Target) -> Decision:
    if isinstance(entry, Kept):
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
    if entry.wish.format.static and entry.name not in placement.codes:
        reason = Reason(code="cheaper-in-float", text=_cheaper(entry, placement))
        return Decision(node=entry.name, op=entry.op, action=Action.KEEP, reason=reason, rule=entry.wish.rule)
    outputs = tensors.outputs(entry.node)
    returns_float = not outputs and entry.name not in placement.absorbed.values()
    kernel = entry.row.float_kernel if returns_float and entry.row.float_kernel else entry.row.kernel
    reads_codes = entry.wish.format is not Format.WEIGHT_ONLY and bool(entry.activations)
    parts = [f"{entry.wish.activations.dtype} activations"] if reads_codes else []
    if entry.weights:
        parts.append(f"{entry.wish.weights.dtype} weights")
    text = f"{' x '.join(parts)} run as {entry.row.fused or kernel} on target {target.name}"
    if entry.wish.unsigned:
        text += "; int8 weights with zero points would saturate, these represent the same values"
    if kernel == "DequantizeLinear" and not entry.row.fused:
        text = f"{entry.wish.weights.dtype} weights; {kernel} unpacks them before {entry.op} runs in float"
    if entry.row.codebook:
        when = "the runtime decodes them, then" if entry.row.fused else "the rows looked up are decoded:"
        text = f"{entry.wish.weights} weights; {when} {entry.op} runs in float"
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
        format=entry.wish.format,
        rule=entry.wish.rule,
        inputs=inputs,
        outputs=outputs,
        kernel=kernel,
        accuracy_level=level,
        detours=entry.written.detours,
    )


def _with_wish(decision: Decision, wish: Wish | None) -> Decision:
    """Say why a node has another form than was asked for."""
    if wish is None or wish.why is None or decision.action is not Action.QUANTIZE:
        return decision
    code, because = wish.why
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


def _unsigned(examined: Sequence[Candidate | Kept], decisions: Sequence[Decision]) -> tuple[str, ...]:
    """Return a warning about uint8 weights that stand in for int8 ones with zero points, if there are such."""
    stand_in = {entry.name for entry in examined if isinstance(entry, Candidate) and entry.wish.unsigned}
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
        return f"{entry.op} takes the same time on codes, and stays with its neighbours in float"
    if on_codes > in_float:
        return f"{entry.row.kernel} takes about {on_codes / 1e3:.3g} us, {entry.op} in float {in_float / 1e3:.3g} us"
    return (
        f"{entry.row.kernel} would save about {(in_float - on_codes) / 1e3:.3g} us, "
        "less than the QuantizeLinear and DequantizeLinear nodes it needs around it"
    )


def check_possible(examined: Sequence[Candidate | Kept], recipe: Recipe) -> None:
    """Refuse schemes that no node can have: the recipe's, and those of each rule that must match.

    Raises:
        RecipeError: there are such; names a node and what would do.
    """
    asked: list[tuple[str, int | None, Recipe | Rule]] = [("the recipe", None, recipe)]
    asked += [(f"rule {index}", index, rule) for index, rule in enumerate(recipe.rules) if not rule.optional]
    for who, index, part in asked:
        spoken = [entry for entry in examined if entry.wish is not None and entry.wish.rule == index]
        refused = [entry for entry in spoken if isinstance(entry, Kept) and _is_about_scheme(entry)]
        if refused and _sets_scheme(part) and not any(isinstance(entry, Candidate) for entry in spoken):
            raise RecipeError(f"no node can have what {who} wants: '{refused[0].name}': {refused[0].reason.text}")


def _is_about_scheme(entry: Kept) -> bool:
    """Tell whether a node is kept because of types, granularities or, of weights alone, their blocks."""
    about = {NO_SCHEME, "condition"} if entry.wish and entry.wish.format is Format.WEIGHT_ONLY else {NO_SCHEME}
    return entry.reason.code in about


def _sets_scheme(part: Recipe | Rule) -> bool:
    chosen = [choice.model_fields_set - {"method"} for choice in (part.activations, part.weights) if choice is not None]
    return any(chosen)
