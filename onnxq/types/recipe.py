"""Recipe: what the user wants, complete and in one value; round-trips to YAML and JSON."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from onnxq.errors import RecipeError, nearest
from onnxq.types import shorthand
from onnxq.types.amount import Amount, parse_amount
from onnxq.types.costs import Costs
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.plain_data import explain
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
    """Return whether a node has the name, or matches the pattern, of a rule; one with brackets matches itself too."""
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
        """Return whether a node of type `op` called `name`, with a constant weight or without, is meant."""
        if self.weighted is not None and weighted is not self.weighted:
            return False
        return (not self.ops or op in self.ops) and (
            not self.names or any(matches(name, pattern) for pattern in self.names)
        )


class Rule(_Model):
    """Later rules win over earlier ones, part by part.

    Attributes:
        match: the nodes meant.
        keep: leaves them alone, and says why: "float" as requested; "unfused", "error", "slower" and
            "kernel-fault" since a guard found that they do not run on integers, spoil an output, take longer, or that
            their kernel computes something else than the graph says.
        format: write them in another format than the recipe's.
        activations, weights: parts of the schemes to change for them.
        accuracy_level: of MatMulNBits, as in the recipe.
        why: "kernel-fault" where a guard gave them this form, since the kernel of the one before computes something
            else than the graph says.
        because: the figures, of `keep` or `why`.
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
    def from_guard(self) -> bool:
        """Whether a guard added the rule, not the user."""
        return self.why is not None or self.keep not in (None, "float")


class _MethodChoice(_Model):
    name: str
    options: dict[str, float | int | str | bool] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        return shorthand.method(value) if isinstance(value, str) else value

    def __str__(self) -> str:
        """Return the short form."""
        options = ",".join(
            f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in self.options.items()
        )
        return f"{self.name}:{options}" if options else self.name


class CalibratorChoice(_MethodChoice):
    """A calibrator by name, with its options. Short: `percentile:percentile=99.9`."""

    name: str = "mse"


class EqualizerChoice(_MethodChoice):
    """An equalizer by name, with its options. Short: `smoothquant:alpha=0.5`."""


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
    """All options of a command or call, except the model's own path and the output's.

    The description of a field is also the help of the command line's option for it. `rules` are exceptions, in order:
    later ones win.
    """

    format: Format = Field(
        default=Format.QDQ,
        description="How quantized nodes are written: qdq, qoperator, dynamic, weight-only, or auto.",
    )
    target: str = Field(default="cpu", description="Where the model will be served; see `onnxq targets`.")
    portable: bool = Field(
        default=False, description="Use operators of the ONNX standard only, none of onnxruntime's own."
    )
    calibrator: CalibratorChoice = Field(
        default=CalibratorChoice(),
        description="How ranges follow from what was seen: minmax, percentile:percentile=99.9 ...",
    )
    activations: ActivationChoice = Field(
        default=ActivationChoice(),
        description="What differs from the target's default, such as int8,symmetric or uint8.",
    )
    weights: WeightChoice = Field(
        default=WeightChoice(), description="The same for weights, such as per-tensor or uint8,asymmetric."
    )
    float_type: FloatType = Field(
        default=FloatType.FLOAT32,
        description="Type of what stays in float: float32, float16 or bfloat16. Inputs and outputs keep theirs.",
    )
    rules: tuple[Rule, ...] = ()
    equalize: Annotated[tuple[EqualizerChoice, ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="Make the model easier to quantize first, its float outputs unchanged: smoothquant:alpha=0.5 ...; "
        "repeatable.",
    )
    placement: Literal["fastest", "everywhere"] = Field(
        default="fastest", description="fastest: where integer kernels save time. everywhere: wherever there is one."
    )
    bias_correction: Literal["none", "analytic", "empirical"] = Field(
        default="none",
        description="Let biases take back what rounding shifts on average: none, analytic (from inputs' means) or "
        "empirical (from outputs' means, layer by layer).",
    )
    calibration: str | None = Field(
        default=None,
        description="Typical inputs: .npz, .npy, a folder of them, module:function. Without: inputs are made up.",
    )
    evaluation: str | None = Field(
        default=None,
        description="Inputs to compare both models on; an array `labels` among them gives accuracy. Without: "
        "evaluation.npz beside the calibration file, else the calibration data.",
    )
    samples: int | None = Field(default=None, ge=1, description="Calibrate on the first N samples only.")
    batch_size: int | None = Field(default=None, ge=1, description="Samples a run; without: as the data comes.")
    subsample: int | None = Field(default=None, ge=1, description="Observe only every N-th value of a sample.")
    passes: str | None = Field(
        default=None, description="Prepare the model with these passes instead; see `onnxq passes`."
    )
    metric: str | None = Field(default=None, description="Score both models with a function of your own.")
    min_sqnr: float | None = Field(
        default=None, description="Every output must be as good as this: the worst nodes stay in float until it is."
    )
    max_drop: Annotated[Amount | None, BeforeValidator(parse_amount)] = Field(
        default=None,
        description="The metric, or accuracy, may fall by no more (% of the float model's): the worst nodes stay in "
        "float until it does not.",
    )
    max_ppl_increase: Annotated[Amount | None, BeforeValidator(parse_amount)] = Field(
        default=None,
        description="A language model's perplexity on the evaluation data may rise by no more, the same way.",
    )
    threads: int | None = Field(
        default=None, ge=0, description="Threads that it is served with, 0 for all cores. Without: one as well as all."
    )
    guard: bool = Field(
        default=True,
        description="Measure, put back in float what takes longer quantized, breaks those limits, or the runtime "
        "leaves in float anyway, and write otherwise what a kernel computes otherwise than the graph says; switched "
        "off: fail, and write nothing, where a limit is broken.",
    )
    costs: Costs | Literal["auto", "none"] = Field(
        default="auto",
        description="Times to choose between float and codes by: auto (measured here by `onnxq targets --measure`, if "
        "any were) or none (the target's own).",
    )
    faults: Annotated[tuple[str, ...] | Literal["auto", "none"], BeforeValidator(_fault_names)] = Field(
        default="auto",
        description="Faults of the runtime to go around: auto (those it is found to have), none, or names that "
        "`onnxq targets --probe` shows; repeatable.",
    )
    prefer: Literal["speed", "size"] = Field(
        "speed", description="speed: what takes longer goes back to float. size: it stays quantized, with a warning."
    )
    accuracy_level: Literal[1, 4] | None = Field(
        default=None,
        description="Of products in format weight-only: 4 (default) rounds what they multiply to 8 bits inside the "
        "kernel, 1 does not, and takes several times as long. imported MatMulNBits keep theirs unless "
        "it is given.",
    )
    opset: int | None = Field(default=None, ge=1, description="Bring the model to this opset of ONNX, if it is older.")
    search: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        default=(),
        description="Look for the fastest or smallest model within the limits: layer by layer one of these ways, or "
        "float. auto, a recipe, or FORMAT:SCHEME such as weight-only:uint4,per-block(32); repeatable.",
    )
    tries: int = Field(default=24, ge=1, description="How many whole models a search makes and runs at most.")

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
    message = explain(entry)
    if entry["type"] == "model_type":
        message = f"expected a mapping or its short form as text, found {entry['input']!r}"
    return f"recipe: {where}: {message}" if where else f"recipe: {message}"


def with_rules(recipe: Recipe, rules: Sequence[Rule]) -> Recipe:
    """Return the recipe with rules added behind its own."""
    return recipe.model_copy(update={"rules": (*recipe.rules, *rules)})
