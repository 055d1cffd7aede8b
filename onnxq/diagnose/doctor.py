"""doctor: coverage and hazards of one model, and what to do about each reason for which an operator stays in float."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from onnxq.data import Source
from onnxq.diagnose.coverage import coverage, holds_codes
from onnxq.diagnose.graph_hazards import graph_hazards
from onnxq.diagnose.weight_hazards import weight_hazards
from onnxq.errors import ModelError
from onnxq.evaluate.kernels import paired_in_float
from onnxq.passes.read.saturation import saturating
from onnxq.progress import Progress
from onnxq.runtime.session import CPU
from onnxq.stages.calibrate import calibrate
from onnxq.stages.plan import Examined
from onnxq.stages.plan.entries import Candidate, FloatNode
from onnxq.stages.plan.observed import without_unfit
from onnxq.stages.plan.sizes import Sizes
from onnxq.targets import Target, targets
from onnxq.types.diagnosis import Diagnosis, Hazard
from onnxq.types.statistics import ChannelStatistics, Statistics

if TYPE_CHECKING:
    import onnx_ir as ir

_OUTLIERS = 20.0  # largest channel of an activation over the median one (Dettmers et al. 2022, arXiv 2208.07339)
_FROM_VALUES = {
    "mask": ("activations hold the minus infinity of a mask", "nothing: what would mix it with values stays in float"),
    "wide-range": (
        "values of very different size would share one scale (Concat, Where)",
        "nothing: it stays in float; to quantize it, scale the parts alike in the model",
    ),
    "nan": ("the float model computes NaN", "repair the model or the calibration data"),
    "not-observed": ("never ran during calibration", "calibrate with samples that reach them"),
}


def look(examined: Examined, source: Source, *, progress: Progress | None = None) -> Statistics:
    """Run a prepared model over calibration data; observe what the planner would use, and single channels."""
    axes = _watched(examined)
    wanted = examined.observed | axes.keys()
    return calibrate(examined.model, wanted, source, channel_axes=axes, progress=progress)


def _watched(examined: Examined) -> dict[str, int]:
    """Return the activations whose channels are looked at one by one, and their channel axis."""
    axes = {}
    for entry in examined.candidates:
        if entry.fact.feature_axis is None or not entry.weights:
            continue
        value = entry.node.inputs[entry.activations[0]] if entry.activations else None
        if value is not None and value.name and value.shape is not None and not entry.hidden:
            axes[value.name] = entry.fact.feature_axis(entry.node, len(value.shape))
    return axes


def diagnose(
    model: ir.Model,
    examined: Examined,
    *,
    statistics: Statistics | None,
    warnings: Sequence[str],
) -> Diagnosis:
    """Return how much of a model is quantized or could be, what stays in float and why, and what could go wrong.

    Args:
        model: as loaded.
        examined: its normal form, and what could be quantized in it.
        statistics: what `look` returned; None where no data was run.
        warnings: of the stages before.
    """
    prepared, target, entries = examined.model, examined.target, list(examined.entries)
    if statistics is not None:
        entries = list(without_unfit(entries, statistics))
    unfused = _unfused(prepared, target)
    operators = tuple(coverage(entries, Sizes(statistics or Statistics()), unfused))
    codes = dict.fromkeys(entry.reason.code for entry in operators if entry.reason is not None)
    hazards = [
        *graph_hazards(model, prepared, target),
        *weight_hazards(prepared, entries),
        *_saturation(prepared, target),
        *_pairs_in_float(unfused),
    ]
    if statistics is not None:
        hazards += [*_values(entries), *_outliers(statistics)]
    return Diagnosis(
        target=target.name,
        format=str(examined.recipe.format),
        operators=operators,
        advice={code: advice_for(code) for code in codes},
        hazards=tuple(hazards),
        observed=statistics is not None,
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _values(examined: Sequence[Candidate | FloatNode]) -> Iterator[Hazard]:
    """Yield what ranges say against quantizing."""
    by_code: dict[str, list[str]] = {}
    for entry in examined:
        if isinstance(entry, FloatNode) and entry.reason.code in _FROM_VALUES:
            by_code.setdefault(entry.reason.code, []).append(entry.name)
    for code, names in by_code.items():
        text, advice = _FROM_VALUES[code]
        yield Hazard(code=code, text=f"{text}: {len(names)} nodes", advice=advice, where=tuple(names))


def _unfused(prepared: ir.Model, target: Target) -> dict[str, str]:
    """Return the nodes between Q and DQ that the installed runtime runs in float; none where it is not the target's."""
    if target.provider not in CPU or not holds_codes(prepared):
        return {}
    try:
        return paired_in_float(prepared)
    except ModelError:  # a model that does not load is looked at all the same
        return {}


def _pairs_in_float(unfused: Mapping[str, str]) -> Iterator[Hazard]:
    if unfused:
        ops = ", ".join(sorted({how.removesuffix(" in float") for how in unfused.values()}))
        yield Hazard(
            code="unfused",
            text=f"nodes between QuantizeLinear and DequantizeLinear that the runtime runs in float ({ops}): "
            f"{len(unfused)}",
            advice="quantize the float model with onnxq: it quantizes what a kernel runs on integers; a convolution or "
            "product needs a QuantizeLinear right behind it, and a zero point for each scale",
            where=tuple(unfused),
        )


def _saturation(prepared: ir.Model, target: Target) -> Iterator[Hazard]:
    """Yield which products of a quantized model saturate on processors without VNNI, this target's or others."""
    products = list(saturating(prepared, targets.get("cpu-avx2")))
    if not products:
        return
    names = tuple(dict.fromkeys(entry.node for entry in products))
    here = any(target.pair_limit(entry.product, None) is not None for entry in products)
    where = "on this target" if here else "on processors without VNNI; not on this target"
    yield Hazard(
        code="saturation",
        text=f"products with neighbouring weights too large for sums of 16 bits, which saturate {where}: {len(names)}",
        advice="quantize the float model with `--target cpu-avx2`, or write this one with it, in another static format "
        "or in `qdq` again: codes that would saturate are then chosen again",
        where=names,
    )


def _outliers(statistics: Statistics) -> Iterator[Hazard]:
    names = [name for name, observed in statistics.tensors.items() if _has_outliers(observed.channels)]
    if names:
        yield Hazard(
            code="outlier-channels",
            text=f"activations with channels {_OUTLIERS:g} times as large as the median channel: {len(names)}",
            advice="`--activations per-token` with format dynamic, or weight-only, or keep what reads them in float",
            where=tuple(names),
        )


def _has_outliers(channels: ChannelStatistics | None) -> bool:
    import numpy as np

    if channels is None:
        return False
    sizes = np.maximum(np.abs(channels.minimum), np.abs(channels.maximum))[np.asarray(channels.count) > 0]
    alive = sizes[sizes > 0]
    return bool(alive.size > 1 and alive.max() > _OUTLIERS * np.median(alive))


_ADVICE = {
    "no-kernel": "the target has no integer kernel for it; a rule with `format: weight-only` makes its file smaller",
    "type": "only float32 is quantized; export the model in float32",
    "computed-weight": "its second operand is computed at run time; nothing is stored that could get smaller",
    "computed-bias": "make the bias a constant (fold it in the exporter)",
    "bias-shape": "make the bias a vector of one number a channel",
    "already-quantized": "nothing; what is quantized stays as it is",
    "imported": "nothing; it was imported quantized and keeps its parameters",
    "default": "take the default off the inputs, or make it a constant: `--passes` with unlist-initializers{all=true}",
    "constant": "its reason says what tables are quantized; a rule with `format: weight-only` may store it quantized",
    "condition": "the reason says what its kernel lacks; another format or scheme may have it",
    "no-gain": "too small to get smaller; leave it",
    "lone-clamp": "nothing; it costs next to nothing",
    "hidden": "format dynamic or weight-only needs no ranges",
    "not-observed": "calibrate with samples that reach it",
    "always-zero": "calibrate with samples in which it is not 0",
    "infinite": "clean the data, or repair the float model",
    "nan": "the float model computes NaN there; repair it or its inputs",
    "mask": "nothing; keeping the mask in float is right",
    "wide-range": "nothing; keeping it in float is right",
    "few-codes": "nothing; what reads it is quantized over the range that was seen",
    "cheaper-in-float": "`--placement everywhere` quantizes it all the same",
    "equalizes": "nothing; it makes what follows easier to quantize",
    "outliers": "a larger bound leaves fewer features in float: `outliers=8`",
    "runtime-fault": "the reason says what to do; or serve it with another onnxruntime",
    "rule": "take the rule out of the recipe",
    "slower": "`--no-guard` or `--prefer size` quantizes it all the same",
    "unfused": "nothing; the runtime would leave it in float anyway",
    "kernel-fault": "nothing; the kernel of the form before computes something else than the graph says",
    "error": "a looser `--min-sqnr` or `--max-drop` quantizes it",
}


def advice_for(code: str) -> str:
    """Return what to do about a reason code."""
    return _ADVICE.get(code, "see its reason")
