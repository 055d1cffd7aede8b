"""Recipe: what the user wants, complete and in one value; round-trips to YAML and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from onnxq.types.float_type import FloatType

if TYPE_CHECKING:
    pass

import fnmatch
import re
from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from onnxq.errors import RecipeError, nearest
from onnxq.types import shorthand
from onnxq.types.amount import Amount, parse_amount
from onnxq.types.costs import Costs
from onnxq.types.format import Format
from onnxq.types.scheme import (
    Granularity,
    PerBlock,
    PerChannel,
    PerTensor,
    PerToken,
    QuantType,
    Rounding,
    ScaleType,
    Scheme,
    index_type,
)

_PARTS = frozenset(part.name for part in fields(Scheme)) - {"codebook"}
_PLAIN = {"per-tensor": PerTensor, "per-channel": PerChannel, "per-token": PerToken}


def _granularity(value: object) -> object:
    """Accept the short form: `per-channel`, `per-block(32)`."""
    if not isinstance(value, str):
        return value
    if value in _PLAIN:
        return _PLAIN[value]()
    block = re.fullmatch(r"per-block\((\d+)\)", value)
    if block:
        return PerBlock(size=int(block[1]))
    raise ValueError(f"unknown granularity '{value}'{nearest(value, [*_PLAIN, 'per-block(32)'])}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SchemeChoice(_Model):
    """A scheme with holes: what is None comes from the rule below, or from the target. Short: `uint8,per-tensor`."""

    dtype: QuantType | None = None
    symmetric: bool | None = None
    granularity: Annotated[Granularity, Field(discriminator="kind"), BeforeValidator(_granularity)] | None = None
    rounding: Rounding | None = None
    narrow: bool | None = None
    scale_type: ScaleType | None = None

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return shorthand.scheme(value) if isinstance(value, str) else value

    def over(self, base: Scheme) -> Scheme:
        """Return `base` with the parts that are chosen here put in their place."""
        chosen = {name: getattr(self, name) for name in type(self).model_fields if name in _PARTS}
        return replace(base, **{name: value for name, value in chosen.items() if value is not None})


class ActivationChoice(SchemeChoice):
    """A scheme with holes for activations, and from which magnitude on a feature is left out of it (`outliers=6`)."""

    outliers: float | None = Field(default=None, gt=0, allow_inf_nan=False)


CODEBOOK_METHODS = ("kmeans", "kmeans:importance=true")
"""Exact k-means; errors as they are, or weighed by the mean square of the input that each weight multiplies."""


class WeightChoice(SchemeChoice):
    """A scheme with holes for weights, and the method that turns weights into codes.

    A codebook brings the type of its indices, one table a tensor, and its own method, CODEBOOK_METHODS; a dtype alone
    asks for evenly spaced codes again.
    """

    method: str | None = None
    codebook: int | None = Field(default=None, ge=2, le=8)
    vector: int | None = Field(default=None, ge=1, le=32)

    def over(self, base: Scheme) -> Scheme:
        """Return `base` with the parts that are chosen here put in their place.

        Raises:
            RecipeError: a part that codebooks do not have, or a type that does not hold the indices.
        """
        bits = self.codebook if self.dtype is not None else self.codebook or base.codebook
        if bits is None:
            return super().over(replace(base, codebook=None, vector=1))
        for name in ("method", "symmetric", "rounding", "narrow", "scale_type"):
            if getattr(self, name) not in (None, *(CODEBOOK_METHODS if name == "method" else ())):
                raise RecipeError(f"a codebook has no {name}: exact k-means finds its values; leave `{name}` out")
        granularity = PerTensor() if base.codebook is None else base.granularity
        start = Scheme(dtype=index_type(bits), symmetric=False, granularity=granularity, codebook=bits)
        return super().over(replace(start, vector=base.vector if base.codebook is not None else 1))


def matches(name: str, pattern: str) -> bool:
    """Tell whether a node is called as a name or pattern of a rule says; a name with brackets stands for itself too."""
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


class Match(_Model):
    """Which nodes a rule is about: operator types, node names or patterns (`*`, `?`, `[..]`), or both.

    `weighted` narrows that down to nodes with a constant weight, or without: attention's products have none.
    """

    op: str | tuple[str, ...] | None = None
    name: str | tuple[str, ...] | None = None
    weighted: bool | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Match:
        if self.op is None and self.name is None:
            raise ValueError("a match names an op, a name, or both; defaults stand in the recipe itself")
        return self

    @property
    def ops(self) -> tuple[str, ...]:
        """The operator types, () for any."""
        return () if self.op is None else (self.op,) if isinstance(self.op, str) else self.op

    @property
    def names(self) -> tuple[str, ...]:
        """The node names and patterns, () for any."""
        return () if self.name is None else (self.name,) if isinstance(self.name, str) else self.name

    def covers(self, op: str, name: str, *, weighted: bool = True) -> bool:
        """Tell whether a node of type `op` called `name`, with a constant weight or without, is meant."""
        if self.weighted is not None and weighted is not self.weighted:
            return False
        return (not self.ops or op in self.ops) and (
            not self.names or any(matches(name, pattern) for pattern in self.names)
        )


class Rule(_Model):
    """Later rules win over earlier ones, part by part.

    Attributes:
        match: the nodes meant.
        keep: leaves them alone, and says why: "float" since it was asked for; "unfused", "error", "slower" and
            "kernel-fault" since a guard found that they do not run on integers, spoil an output, take longer, or that
            their kernel computes something else than the graph says.
        format: write them in another format than the recipe's.
        activations, weights: parts of the schemes to change for them.
        accuracy_level: of MatMulNBits, as in the recipe.
        why: "kernel-fault" where a guard gave them this form, since the kernel of the one before computes something
            else than the graph says. because: the figures, of `keep` or `why`.
        optional: allow that the rule matches nothing, for recipes that serve many models.
    """

    match: Match
    keep: Literal["float", "unfused", "error", "slower", "kernel-fault"] | None = None
    because: str | None = None
    format: Format | None = None
    activations: ActivationChoice | None = None
    weights: WeightChoice | None = None
    accuracy_level: Literal[1, 4] | None = None
    why: Literal["kernel-fault"] | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        if self.format is Format.AUTO:
            raise ValueError("a rule names a format; `auto` is for the whole model")
        parts = (self.format, self.activations, self.weights, self.accuracy_level)
        says = [part for part in parts if part is not None]
        if self.keep is None and not says:
            raise ValueError("a rule says `keep: float`, `format`, `activations`, `weights` or `accuracy_level`")
        if self.keep is not None and (says or self.why):
            raise ValueError("a rule cannot keep nodes in float and give them a format or scheme")
        return self

    @property
    def found(self) -> bool:
        """Whether a guard found the rule, and nobody asked for it."""
        return self.why is not None or self.keep not in (None, "float")


class CalibratorChoice(_Model):
    """A calibrator by name, with its options. Short: `percentile:percentile=99.9`."""

    name: str = "mse"
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return shorthand.calibrator(value) if isinstance(value, str) else value


class EqualizerChoice(_Model):
    """An equalizer by name, with its options. Short: `smoothquant:alpha=0.5`."""

    name: str
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return shorthand.calibrator(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        """Return the short form."""
        options = ",".join(
            f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in self.options.items()
        )
        return f"{self.name}:{options}" if options else self.name


def _listed(value: object) -> object:
    """Accept one where several may stand."""
    return (value,) if isinstance(value, str | dict) else value


def _fault_names(value: object) -> object:
    """Accept one name where several may stand, and the words in a list, as the command line gives them."""
    words = ("auto", "none")
    if isinstance(value, list | tuple) and len(value) == 1 and value[0] in words:
        return value[0]
    return (value,) if isinstance(value, str) and value not in words else value


class Recipe(_Model):
    """All that a command or call was asked for, but for the model's own path and the output's.

    Attributes:
        format: how quantized nodes are written. target: where the model will be served ("cpu": this machine).
        portable: use operators of the ONNX standard only, none of onnxruntime's own.
        calibrator: turns statistics into ranges.
        activations, weights: defaults for all nodes, over the target's.
        float_type: of what stays in float: its constants are stored in that type, and where the target can, computed.
        rules: exceptions, in order; later ones win.
        equalize: rewrites that make the model easier to quantize, in order; what it computes stays the same.
        calibration, evaluation: data sources (path or `module:callable`); None for in-memory data or none.
        samples: how many samples to read at most. batch_size: samples a batch, None as they come.
        subsample: observe only every n-th value of a sample, None for all.
        bias_correction: biases take back what rounding shifts on average: "analytic" from the mean of each layer's
            inputs, "empirical" from the mean of its output, layer by layer; both run some calibration data again.
        placement: "fastest" puts Q/DQ where the kernels save more than the conversions cost; "everywhere" wherever a
            kernel exists.
        passes: pipeline of the preparation, as text; None for the standard one.
        metric: `module:callable` scored on the evaluation data; None: accuracy where the data has labels.
        min_sqnr: dB that every output must reach as served.
        max_drop: by how much the metric may fall, in its own unit (0.005) or as a share of the float model's ("0.5%").
        max_ppl_increase: by how much the perplexity of a language model on the evaluation data may rise, as `max_drop`.
        threads: intra-op threads the model is served with, 0 for all cores; None: one as well as all.
        guard: put back in float what the runtime leaves in float, what breaks those limits, and what takes longer; give
            what a kernel computes otherwise than the graph says another form.
        costs: times that the choice between float and codes goes by: measured ones; "auto": those measured on this
            machine (`onnxq targets --measure`), if there are any; "none": the target's own.
        faults: of the runtime that serves the model, by name, which plans go around; "auto": those that it is found to
            have (`onnxq targets --probe` shows them); "none": as if there were none.
        prefer: "speed": what takes longer goes back to float; "size": it stays, and a warning says what it costs.
        accuracy_level: of MatMulNBits, in onnxruntime's numbers. 4: what it multiplies is rounded to 8 bits inside,
            block by block; 1: it is not, sums are of float32, which takes several times as long. None: 4, and what a
            model came with stays.
        opset: of ONNX, that the model is brought to if it is older; what is quantized may need a later one.
        search: ways to quantize a layer, among which the fastest or smallest model within the limits is looked for:
            names of built-in recipes, paths, `FORMAT:SCHEME`; "auto" for those that suit `prefer`. (): no search.
        tries: how many whole models a search makes and runs at most.
    """

    format: Format = Format.QDQ
    target: str = "cpu"
    portable: bool = False
    calibrator: CalibratorChoice = CalibratorChoice()
    activations: ActivationChoice = ActivationChoice()
    weights: WeightChoice = WeightChoice()
    float_type: FloatType = FloatType.FLOAT32
    rules: tuple[Rule, ...] = ()
    equalize: Annotated[tuple[EqualizerChoice, ...], BeforeValidator(_listed)] = ()
    placement: Literal["fastest", "everywhere"] = "fastest"
    bias_correction: Literal["none", "analytic", "empirical"] = "none"
    calibration: str | None = None
    evaluation: str | None = None
    samples: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    subsample: int | None = Field(default=None, ge=1)
    passes: str | None = None
    metric: str | None = None
    min_sqnr: float | None = None
    max_drop: Annotated[Amount | None, BeforeValidator(parse_amount)] = None
    max_ppl_increase: Annotated[Amount | None, BeforeValidator(parse_amount)] = None
    threads: int | None = Field(default=None, ge=0)
    guard: bool = True
    costs: Costs | Literal["auto", "none"] = "auto"
    faults: Annotated[tuple[str, ...] | Literal["auto", "none"], BeforeValidator(_fault_names)] = "auto"
    prefer: Literal["speed", "size"] = "speed"
    accuracy_level: Literal[1, 4] | None = None
    opset: int | None = Field(default=None, ge=1)
    search: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    tries: int = Field(default=24, ge=1)

    @classmethod
    def parse(cls, data: object) -> Recipe:
        """Check plain data (from YAML, JSON or keyword arguments).

        Raises:
            RecipeError: unknown keys (with the nearest spelling), wrong types or values; says where.
        """
        if isinstance(data, Recipe):
            return data
        if not isinstance(data, dict):
            raise RecipeError(f"a recipe is a mapping of options, not {type(data).__name__}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RecipeError("; ".join(_explain(entry, data) for entry in error.errors())) from None

    @property
    def serving(self) -> tuple[int, ...]:
        """The thread counts that the model may be served with, 0 for all cores; the first is reported."""
        return (1, 0) if self.threads is None else (self.threads,)

    def plain(self) -> dict[str, Any]:
        """Return the complete recipe as plain data, defaults included, unset parts left out."""
        return self.model_dump(mode="json", exclude_none=True)


_BY_KEY: dict[str, type[_Model]] = {
    "activations": ActivationChoice,
    "weights": WeightChoice,
    "rules": Rule,
    "match": Match,
    "calibrator": CalibratorChoice,
    "equalize": EqualizerChoice,
}


def _explain(entry: Any, data: object) -> str:
    """Turn one pydantic error into a sentence with its place and, for an unknown key, the nearest known one."""
    where = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        keys = [part for part in entry["loc"][:-1] if isinstance(part, str) and part in _BY_KEY]
        known = (_BY_KEY[keys[-1]] if keys else Recipe).model_fields
        return f"recipe: unknown key '{where}'{nearest(str(entry['loc'][-1]), known)}"
    message, shown = entry["msg"].removeprefix("Value error, "), entry["input"]
    if entry["type"] in ("enum", "literal_error") and isinstance(shown, str):
        expected = [word.strip("'") for word in re.split(r", | or ", entry["ctx"]["expected"])]
        message = f"unknown value '{shown}'{nearest(shown, expected)}"
    elif entry["type"] == "model_type":
        message = f"expected a mapping or its short form as text, found {shown!r}"
    elif entry["type"] != "value_error":
        message = f"{message[:1].lower()}{message[1:]}, found {shown!r}"
    return f"recipe: {where}: {message}" if where else f"recipe: {message}"


def with_rules(recipe: Recipe, rules: Sequence[Rule]) -> Recipe:
    """Return the recipe with rules added behind its own."""
    return recipe.model_copy(update={"rules": (*recipe.rules, *rules)})
