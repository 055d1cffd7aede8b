"""Where work at run time pays: finding codes for what products read, and unpacking weights before every run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.sizes import UNKNOWN, Sizes, multiply_accumulates
from onnxq.types.costs import Costs
from onnxq.types.format import Format
from onnxq.types.plan import Reason
from onnxq.types.statistics import Statistics

_BEARABLE = 0.1  # of the time in float: what smaller weights may cost that nobody asked for by name


def without_costly(
    examined: Sequence[Candidate | FloatNode], statistics: Statistics, timing: Costs, *, everywhere: bool
) -> Iterator[Candidate | FloatNode]:
    """Yield the entries, with candidates that would be slower quantized made float nodes.

    Products that read the same tensor share its quantization: they are weighed together.

    Args:
        examined: every node. statistics: for observed shapes, where there are any. timing: of the target.
        everywhere: keep all candidates, without weighing the time.
    """
    reasons = {} if everywhere else _against(examined, Sizes(statistics), timing)
    for entry in examined:
        text = reasons.get(entry.name)
        if text is None or not isinstance(entry, Candidate):
            yield entry
        else:
            reason = Reason(code="cheaper-in-float", text=f"{text}; placement 'everywhere' quantizes it all the same")
            yield FloatNode(name=entry.name, node=entry.node, op=entry.op, reason=reason, rule=entry.request.rule)


def _against(examined: Sequence[Candidate | FloatNode], sizes: Sizes, timing: Costs) -> dict[str, str]:
    """Return the reasons against candidates, by name."""
    reasons: dict[str, str] = {}
    groups: dict[object, dict[str, float]] = {}
    costs: dict[object, float] = {}
    for entry in examined:
        if isinstance(entry, Candidate) and entry.request.stands_in and entry.request.format is Format.WEIGHT_ONLY:
            reasons |= _against_unpacking(entry, sizes, timing)
        if not isinstance(entry, Candidate) or entry.request.format is Format.WEIGHT_ONLY:
            continue
        if entry.row.slower:
            reasons[entry.name] = entry.row.slower
        elif entry.request.format.static:
            continue  # weighed by its placement
        elif entry.fact.macs is not None:
            read, count, macs = _work(entry, sizes)
            in_float = macs * timing.float_mac
            on_codes = macs * timing.quantized_mac + count * timing.run_time_output + timing.run_time_node
            if on_codes >= in_float:
                took, alone = (f"{time / 1e3:.3g} us" for time in (on_codes, in_float))
                reasons[entry.name] = f"{entry.row.kernel} takes about {took}, {entry.op} in float {alone}"
                continue
            source = entry.node.inputs[entry.activations[0]]
            assert source is not None
            group = (source, entry.node.graph, entry.request.activations)
            groups.setdefault(group, {})[entry.name] = in_float - on_codes
            costs[group] = read * timing.run_time_quantize
    for shared, savings in groups.items():
        saving = sum(savings.values())
        if saving <= costs[shared]:
            text = (
                f"integer kernels would save about {saving / 1e3:.3g} us, "
                f"less than the {costs[shared] / 1e3:.3g} us for quantizing what they read at run time"
            )
            reasons |= dict.fromkeys(savings, text)
    return reasons


def _against_unpacking(entry: Candidate, sizes: Sizes, timing: Costs) -> dict[str, str]:
    """Return the reason against a recurrent operator whose weights are unpacked before each run, by name."""
    elements = sum(math.prod(sizes.shape(entry.node.inputs[slot])) for slot in entry.weights)
    unpacking = elements * timing.dequantize
    in_float = multiply_accumulates(entry.node, sizes, elements) * timing.float_mac
    if unpacking <= _BEARABLE * in_float:
        return {}
    took, alone = (f"{time / 1e3:.3g} us" for time in (unpacking, in_float))
    return {entry.name: f"unpacking its weights takes about {took} in every run, {entry.op} in float {alone}"}


def _work(entry: Candidate, sizes: Sizes) -> tuple[int, int, int]:
    """Return the elements that a product reads and writes, and its multiply-accumulates."""
    fact, node = entry.fact, entry.node
    source, weight, result = node.inputs[entry.activations[0]], node.inputs[entry.weights[0]], node.outputs[0]
    assert source is not None
    macs = multiply_accumulates(node, sizes)
    if sizes.knows_rank(source) and sizes.knows_rank(result):
        return sizes.count(source), sizes.count(result), macs
    # Of an activation of unknown rank the weight still tells how long its rows are.
    extents = sizes.shape(weight)
    rank = len(extents)
    if fact.channel_axis is None or fact.reduction_axis is None:
        return 0, 0, 0
    columns, summed = extents[fact.channel_axis(node, rank)], extents[fact.reduction_axis(node, rank)]
    return UNKNOWN * summed, UNKNOWN * columns, macs
