"""Equalizers of inputs: the features that linear layers read, scaled against the layers' weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxq.equalizers import InputEqualizer, LinearInputs, LinearWeight, Scales
from onnxq.errors import RecipeError
from onnxq.passes.equalize.rescale import Inserted, Rescaling
from onnxq.stages.equalize.fold import Folded, fold, own_constant
from onnxq.stages.plan.entries import Candidate
from onnxq.stages.plan.examined import examine
from onnxq.stages.plan.storage import with_axis
from onnxq.targets import Target
from onnxq.types.equalization import Equalization
from onnxq.types.format import Format
from onnxq.types.recipe import Recipe
from onnxq.types.scheme import PerTensor, PerToken, Scheme
from onnxq.types.statistics import ChannelStatistics

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Site:
    """A tensor and the linear layers that are to be quantized and read it.

    Attributes:
        value: the tensor; its features lie along the last axis.
        layers: the layers.
        why: what forbids any scale; empty if nothing.
    """

    value: ir.Value
    layers: tuple[Candidate, ...]
    why: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(layer.name for layer in self.layers)


@dataclass(kw_only=True, slots=True)
class Scaled:
    """The result of an equalizer of inputs at all sites."""

    rescaling: Rescaling
    entries: list[Equalization] = field(default_factory=list)


def sites(model: ir.Model, recipe: Recipe, target: Target, *, weight_only: bool, method: str) -> tuple[Site, ...]:
    """Return where scales may go: layers of the main graph whose weights are their own and will be quantized.

    Args:
        model: prepared.
        recipe: what will be quantized.
        target: where it will run.
        weight_only: look at layers whose inputs stay in float, or at those whose inputs are quantized too.
        method: for messages.

    Raises:
        RecipeError: the recipe quantizes no layer in a way that the method is for.
    """
    candidates = examine(model, recipe, target).candidates
    linear = [entry for entry in candidates if entry.op in ("MatMul", "Gemm") and entry.weights and entry.activations]
    fitting = [entry for entry in linear if (entry.request.format is Format.WEIGHT_ONLY) is weight_only]
    if linear and not fitting:
        wants = "weights alone are quantized (format weight-only)" if weight_only else "activations are quantized too"
        other = "smoothquant" if weight_only else "awq"
        raise RecipeError(f"equalize: '{method}' is for layers whose {wants}; this recipe has none; take '{other}'")
    groups: dict[ir.Value, list[Candidate]] = {}
    for entry in fitting:
        source = entry.node.inputs[0]
        if entry.node.graph is model.graph and source is not None and source.name:
            groups.setdefault(source, []).append(entry)
    return tuple(Site(value=value, layers=tuple(layers), why=_why_not(layers)) for value, layers in groups.items())


def _why_not(layers: list[Candidate]) -> str:
    for layer in layers:
        weight = layer.node.inputs[1]
        if weight is None or weight.shape is None or len(weight.shape) != 2:
            return f"the weight of '{layer.name}' is not a matrix"
        if layer.node.attributes.get_int("transA", 0):
            return f"'{layer.name}' transposes its input"
        why = own_constant(weight, [each.node for each in layers])
        if why is not None:
            return why
    return ""


def scale_inputs(
    equalizer: InputEqualizer,
    places: tuple[Site, ...],
    channels: Mapping[str, ChannelStatistics | None],
    *,
    method: str,
    insert: bool,
) -> Scaled:
    """Let an equalizer decide on each site, and find a place for its scales.

    Args:
        equalizer: of inputs.
        places: the sites.
        channels: statistics of the features, by tensor.
        method: for the record.
        insert: allow a Mul where nothing upstream takes the scale.
    """
    factors: dict[str, np.ndarray] = {}
    inserted: list[Inserted] = []
    result = Scaled(rescaling=Rescaling(factors=factors, inserted=inserted))
    for site in places:
        name = site.value.name or ""
        observed = channels.get(name)
        why = site.why or ("no data ever reached it" if observed is None or not observed.count.any() else "")
        answer: Scales | str = why
        if not why and observed is not None:
            answer = equalizer(_inputs(site, observed))
        if isinstance(answer, str):
            result.entries.append(Equalization(method=method, tensor=name, nodes=site.nodes, taken=False, text=answer))
            continue
        place: Folded | str = f"the shape of '{name}' is not known"
        if site.value.shape is not None:
            factor = (1 / answer.scale).reshape([1] * (len(site.value.shape) - 1) + [-1])
            place = fold(site.value, factor, [layer.node for layer in site.layers])
        into = f"folded into {place.into}" if isinstance(place, Folded) else f"as a Mul, since {place}"
        taken = isinstance(place, Folded) or insert
        result.entries.append(
            Equalization(
                method=method,
                tensor=name,
                nodes=site.nodes,
                taken=taken,
                text=f"{answer.text}, {into}" if taken else f"{answer.text}, not done since {place}",
                before=answer.before,
                after=answer.after,
            )
        )
        if not taken:
            continue
        if isinstance(place, Folded):
            _merge(factors, place.factors)
        else:
            inserted.append(Inserted(tensor=name, nodes=site.nodes, factor=1 / answer.scale, method=method))
        _merge(factors, _weights(site, answer.scale))
    return result


def _merge(factors: dict[str, np.ndarray], more: Mapping[str, np.ndarray]) -> None:
    """Combine factors: a constant may take one scale for its rows and another one for its columns."""
    for name, factor in more.items():
        factors[name] = factors[name] * factor if name in factors else factor


def _weights(site: Site, scale: np.ndarray) -> dict[str, np.ndarray]:
    factors = {}
    for layer in site.layers:
        weight = layer.node.inputs[1]
        assert weight is not None
        factors[weight.name or ""] = scale.reshape((1, -1) if _axis(layer) else (-1, 1))
    return factors


def _inputs(site: Site, observed: ChannelStatistics) -> LinearInputs:
    first = site.layers[0].request
    return LinearInputs(
        minimum=np.minimum(observed.minimum, 0.0),
        maximum=np.maximum(observed.maximum, 0.0),
        squares=observed.sum_squares / np.maximum(observed.count, 1),
        activations=None if first.format is Format.WEIGHT_ONLY else _row(first.activations),
        layers=tuple(_linear(layer) for layer in _once(site.layers)),
    )


def _row(scheme: Scheme) -> Scheme:
    """Return one scale for all rows in place of one for each: their spread over features is the same."""
    return replace(scheme, granularity=PerTensor()) if isinstance(scheme.granularity, PerToken) else scheme


def _once(layers: tuple[Candidate, ...]) -> Iterator[Candidate]:
    seen: set[ir.Value | None] = set()
    for layer in layers:
        if layer.node.inputs[1] not in seen:
            seen.add(layer.node.inputs[1])
            yield layer


def _axis(layer: Candidate) -> int:
    assert layer.fact.reduction_axis is not None
    return layer.fact.reduction_axis(layer.node, 2)


def _linear(layer: Candidate) -> LinearWeight:
    weight = layer.node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    scheme = with_axis(layer.request.weights, layer.node, layer.fact, 2)
    return LinearWeight(weight=weight.const_value.numpy(), axis=_axis(layer), scheme=scheme)
