"""Recipe: what the user wants, complete and in one value; round-trips to YAML and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from onnxq.errors import RecipeError, nearest
from onnxq.types.amount import Amount, parse_amount
from onnxq.types.choices import ActivationChoice, CalibratorChoice, EqualizerChoice, StrictModel, WeightChoice
from onnxq.types.costs import Costs
from onnxq.types.float_type import FloatType
from onnxq.types.format import Format
from onnxq.types.plain_data import explain
from onnxq.types.rule import Match, Rule


def _listed(value: object) -> object:
    """Accept one where several may stand."""
    return (value,) if isinstance(value, str | dict) else value


def _fault_names(value: object) -> object:
    """Accept one name where several may stand, and the words in a list, as the command line gives them."""
    words = ("auto", "none")
    if isinstance(value, list | tuple) and len(value) == 1 and value[0] in words:
        return value[0]
    return (value,) if isinstance(value, str) and value not in words else value


class Recipe(StrictModel):
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


_BY_KEY: dict[str, type[StrictModel]] = {
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
