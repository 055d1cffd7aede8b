"""The options that make a recipe, one for each of its fields, for every command that takes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxq.cli.data_options import DATA_OPTIONS, as_calibration

_DATA = "Data"
_CHOICES = "What is quantized, and how"
JUDGED = "How the result is served and judged"


def _flag(panel: str | None, text: str, flag: str) -> Any:
    return Annotated[bool | None, typer.Option(flag, help=text, rich_help_panel=panel)]


def _option(kind: Any, panel: str | None, metavar: str, text: str, flag: str | None = None) -> Any:
    names = () if flag is None else (flag,)
    return Annotated[kind | None, typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel)]


OPTIONS: dict[str, Any] = {
    "recipe": _option(
        Path, None, "FILE", "Take options from a YAML or JSON file, or from a report; those given here win."
    ),
    "calibration": _option(
        str,
        _DATA,
        "DATA",
        "Typical inputs: .npz, .npy, a folder of them, module:function. Without: inputs are made up.",
    ),
    "subsample": _option(int, _DATA, "N", "Observe only every N-th value of a sample."),
    "samples": _option(int, _DATA, "N", "Calibrate on the first N samples only."),
    "batch_size": _option(int, _DATA, "N", "Samples a run; without: as the data comes."),
    "evaluation": _option(
        str,
        _DATA,
        "DATA",
        "Inputs to compare both models on; an array `labels` among them gives accuracy. Without: evaluation.npz beside "
        "the calibration file, else the calibration data.",
    ),
    "format": _option(
        str, _CHOICES, "NAME", "How quantized nodes are written: qdq, qoperator, dynamic, weight-only, or auto."
    ),
    "portable": _flag(_CHOICES, "Use operators of the ONNX standard only, none of onnxruntime's own.", "--portable"),
    "activations": _option(
        str, _CHOICES, "SCHEME", "What differs from the target's default, such as int8,symmetric or uint8."
    ),
    "weights": _option(str, _CHOICES, "SCHEME", "The same for weights, such as per-tensor or uint8,asymmetric."),
    "costs": _option(
        str,
        _CHOICES,
        "NAME",
        "Times to choose between float and codes by: auto (measured here by `onnxq targets --measure`, if any were) or "
        "none (the target's own).",
    ),
    "faults": _option(
        list[str],
        _CHOICES,
        "NAME",
        "Faults of the runtime to go around: auto (those it is found to have), none, or names that "
        "`onnxq targets --probe` shows; repeatable.",
    ),
    "float_type": _option(
        str,
        _CHOICES,
        "NAME",
        "Type of what stays in float: float32, float16 or bfloat16. Inputs and outputs keep theirs.",
    ),
    "accuracy_level": _option(
        int,
        _CHOICES,
        "1|4",
        "Of products in format weight-only: 4 (default) rounds what they multiply to 8 bits inside the kernel, 1 does "
        "not, and takes several times as long. MatMulNBits that came with the model keep theirs unless it is given.",
    ),
    "calibrator": _option(
        str, _CHOICES, "NAME[:OPTIONS]", "How ranges follow from what was seen: minmax, percentile:percentile=99.9 ..."
    ),
    "equalize": _option(
        list[str],
        _CHOICES,
        "NAME[:OPTIONS]",
        "Make the model easier to quantize first, its float outputs unchanged: smoothquant:alpha=0.5 ...; repeatable.",
    ),
    "keep": _option(
        list[str],
        _CHOICES,
        "PATTERN",
        "Leave in float: an operator type, a node name, or a pattern with * and ?; repeatable.",
    ),
    "placement": _option(
        str, _CHOICES, "NAME", "fastest: where integer kernels save time. everywhere: wherever there is one."
    ),
    "bias_correction": _option(
        str,
        _CHOICES,
        "NAME",
        "Let biases take back what rounding shifts on average: none, analytic (from inputs' means) or empirical.",
    ),
    "passes": _option(str, _CHOICES, "NAME,...", "Prepare the model with these passes instead; see `onnxq passes`."),
    "target": _option(str, JUDGED, "NAME", "Where the model will be served; see `onnxq targets`."),
    "threads": _option(
        int, JUDGED, "N", "Threads that it is served with, 0 for all cores. Without: one as well as all."
    ),
    "metric": _option(str, JUDGED, "MODULE:FUNCTION", "Score both models with a function of your own."),
    "min_sqnr": _option(
        float, JUDGED, "DB", "Every output must be as good as this: the worst nodes stay in float until it is."
    ),
    "max_drop": _option(
        str, JUDGED, "X|X%", "The metric, or accuracy, may fall by no more (% of the float model's): as --min-sqnr."
    ),
    "max_ppl_increase": _option(
        str,
        JUDGED,
        "X|X%",
        "A language model's perplexity on the evaluation data may rise by no more: as --min-sqnr.",
    ),
    "guard": _flag(
        JUDGED,
        "Measure, put back in float what takes longer quantized, breaks those limits, or the runtime leaves in float "
        "anyway, and write otherwise what a kernel computes otherwise than the graph says; --no-guard: fail, and write "
        "nothing, where a limit is broken.",
        "--guard/--no-guard",
    ),
    "prefer": _option(
        str, JUDGED, "NAME", "speed: what takes longer goes back to float. size: it stays quantized, with a warning."
    ),
    "opset": _option(int, _CHOICES, "N", "Bring the model to this opset of ONNX, if it is older."),
    "search": _option(
        list[str],
        JUDGED,
        "WAY",
        "Look for the fastest or smallest model within the limits: layer by layer one of these ways, or float. auto, a "
        "recipe, or FORMAT:SCHEME such as weight-only:uint4,per-block(32); repeatable.",
    ),
    "tries": _option(int, JUDGED, "N", "How many whole models a search makes and runs at most."),
}


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of a recipe, in place of its parameter `options`.

    The command is called with `options`: those that were given, so that a recipe file decides on the others.
    """
    signature = inspect.signature(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == "options":
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += [
                inspect.Parameter(name, kind, default=None, annotation=option)
                for name, option in (*OPTIONS.items(), *DATA_OPTIONS.items())
            ]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def collected(**given: Any) -> None:
        options = {name: given.pop(name) for name in OPTIONS}
        source = as_calibration({name: given.pop(name) for name in DATA_OPTIONS})
        if source is not None:
            if options["calibration"] is not None:
                raise typer.BadParameter("calibration data is given twice", param_hint="--calibration")
            options["calibration"] = source
        command(**given, options={name: value for name, value in options.items() if value not in (None, [])})

    collected.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return collected
