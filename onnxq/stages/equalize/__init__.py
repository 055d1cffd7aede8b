"""equalize: Model, data, recipe -> a Model that computes the same and is easier to quantize.

It runs between prepare and calibrate: it observes what it needs itself, equalizer by equalizer, and the statistics
that a plan uses are those of the equalized model. The decisions are `Equalization` entries and the
numbers that go with them; the passes of `onnxq.passes.equalize` carry them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from onnxq.data.source import Source
from onnxq.equalizers import (
    Equalizer,
    InputEqualizer,
    LowestEqualizer,
    Place,
    RangeEqualizer,
    StreamEqualizer,
    make_equalizers,
)
from onnxq.errors import CalibrationError
from onnxq.passes.equalize.rescale import Rescaling
from onnxq.passes.manager import PassRecord, run_pipeline
from onnxq.progress import Progress
from onnxq.stages.calibrate import calibrate
from onnxq.stages.equalize.absorb import absorb, absorbing
from onnxq.stages.equalize.linear import scale_inputs, sites
from onnxq.stages.equalize.pairs import level_ranges
from onnxq.stages.equalize.stream import rotate_streams
from onnxq.targets import Target
from onnxq.types.choices import EqualizerChoice
from onnxq.types.equalization import Equalization
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import ChannelStatistics

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Equalized", "equalize"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Equalized:
    """The result of the stage.

    Attributes:
        model: a changed copy of the model.
        entries: what was done and what not, in order.
        records: of the passes.
    """

    model: ir.Model
    entries: tuple[Equalization, ...] = ()
    records: tuple[PassRecord, ...] = ()


def equalize(
    model: ir.Model, recipe: Recipe, target: Target, source: Source, *, progress: Progress | None = None
) -> Equalized:
    """Carry out the equalizers of a recipe, in its order.

    Args:
        model: prepared.
        recipe: what will be quantized.
        target: where it will run.
        source: calibration data, read once for each equalizer that uses it.
        progress: receives what is going on.

    Raises:
        RecipeError: an order that makes no sense, or a method that is not for what the recipe quantizes.
        CalibrationError: data that can be read only once.
    """
    result = Equalized(model=model)
    for choice, equalizer in zip(recipe.equalize, make_equalizers(recipe.equalize), strict=True):
        step = _Step(result.model, recipe, target, source, progress, choice)
        result = _STEPS[equalizer.place](step, equalizer, result)
    return result


@dataclass(frozen=True, slots=True)
class _Step:
    model: ir.Model
    recipe: Recipe
    target: Target
    source: Source
    progress: Progress | None
    choice: EqualizerChoice

    def observe(self, axes: Mapping[str, int]) -> dict[str, ChannelStatistics | None]:
        """Return the statistics of each index of the given axes, by tensor."""
        if not axes:
            return {}
        if not self.source.repeatable:
            message = "equalizing reads the calibration data more than once"
            raise CalibrationError(f"{message}; give a list, a file or a function that returns an iterator")
        statistics = calibrate(
            self.model, axes, self.source, channel_axes=axes, histograms=False, progress=self.progress
        )
        return {name: each.channels for name, each in statistics.tensors.items()}


def _inputs(step: _Step, equalizer: Equalizer, before: Equalized) -> Equalized:
    weight_only = bool(getattr(equalizer, "weight_only", False))
    places = sites(step.model, step.recipe, step.target, weight_only=weight_only, method=step.choice.name)
    channels = step.observe({site.value.name: -1 for site in places if not site.why and site.value.name})
    scaled = scale_inputs(
        cast(InputEqualizer, equalizer),
        places,
        channels,
        method=str(step.choice),
        insert=bool(getattr(equalizer, "insert", True)),
    )
    return _carried_out(step, scaled.rescaling, scaled.entries, before)


def _ranges(step: _Step, equalizer: Equalizer, before: Equalized) -> Equalized:
    changes, entries = level_ranges(step.model, cast(RangeEqualizer, equalizer), method=str(step.choice))
    return _carried_out(step, changes, entries, before)


def _lowest(step: _Step, equalizer: Equalizer, before: Equalized) -> Equalized:
    relus = absorbing(step.model)
    channels = step.observe({each.tensor: each.axis for each in relus if not each.why})
    changes, entries = absorb(relus, channels, cast(LowestEqualizer, equalizer), method=str(step.choice))
    return _carried_out(step, changes, entries, before)


def _stream(step: _Step, equalizer: Equalizer, before: Equalized) -> Equalized:
    changes, entries = rotate_streams(step.model, cast(StreamEqualizer, equalizer), method=str(step.choice))
    return _carried_out(step, changes, entries, before)


def _carried_out(step: _Step, changes: Rescaling, entries: Sequence[Equalization], before: Equalized) -> Equalized:
    model, records = run_pipeline(step.model, ["rescale"], options={"rescale": {"rescaling": changes}})
    return Equalized(model=model, entries=(*before.entries, *entries), records=(*before.records, *records))


_STEPS = {Place.INPUTS: _inputs, Place.RANGES: _ranges, Place.LOWEST: _lowest, Place.STREAM: _stream}
