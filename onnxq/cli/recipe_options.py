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

# Type, panel, and the word for the value, or a flag's own names; in the order of the help.
_FIELDS: dict[str, tuple[Any, str, str]] = {
    "calibration": (str, _DATA, "DATA"),
    "subsample": (int, _DATA, "N"),
    "samples": (int, _DATA, "N"),
    "batch_size": (int, _DATA, "N"),
    "evaluation": (str, _DATA, "DATA"),
    "format": (str, _CHOICES, "NAME"),
    "portable": (bool, _CHOICES, "--portable"),
    "activations": (str, _CHOICES, "SCHEME"),
    "weights": (str, _CHOICES, "SCHEME"),
    "costs": (str, _CHOICES, "NAME"),
    "faults": (list[str], _CHOICES, "NAME"),
    "float_type": (str, _CHOICES, "NAME"),
    "accuracy_level": (int, _CHOICES, "1|4"),
    "calibrator": (str, _CHOICES, "NAME[:OPTIONS]"),
    "equalize": (list[str], _CHOICES, "NAME[:OPTIONS]"),
    "keep": (list[str], _CHOICES, "PATTERN"),
    "placement": (str, _CHOICES, "NAME"),
    "bias_correction": (str, _CHOICES, "NAME"),
    "passes": (str, _CHOICES, "NAME,..."),
    "target": (str, JUDGED, "NAME"),
    "threads": (int, JUDGED, "N"),
    "metric": (str, JUDGED, "MODULE:FUNCTION"),
    "min_sqnr": (float, JUDGED, "DB"),
    "max_drop": (str, JUDGED, "X|X%"),
    "max_ppl_increase": (str, JUDGED, "X|X%"),
    "guard": (bool, JUDGED, "--guard/--no-guard"),
    "prefer": (str, JUDGED, "NAME"),
    "opset": (int, _CHOICES, "N"),
    "search": (list[str], JUDGED, "WAY"),
    "tries": (int, JUDGED, "N"),
}


def recipe_options() -> dict[str, Any]:
    """Return the annotated type of each option, by name; the help is the description of the recipe's field."""
    from onnxq.types.recipe import Recipe

    texts = {name: field.description for name, field in Recipe.model_fields.items()} | {
        "keep": "Leave in float: an operator type, a node name, or a pattern with * and ?; repeatable."
    }
    file = typer.Option(
        metavar="FILE", help="Take options from a YAML or JSON file, or from a report; those given here win."
    )
    options: dict[str, Any] = {"recipe": Annotated[Path | None, file]}
    for name, (kind, panel, word) in _FIELDS.items():
        names, metavar = ((word,), None) if kind is bool else ((), word)
        option = typer.Option(*names, metavar=metavar, help=texts[name], rich_help_panel=panel)
        options[name] = Annotated[kind | None, option]
    return options


def takes_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with an option for each field of a recipe, in place of its parameter `options`.

    The command is called with `options`: those that were given, so that a recipe file decides on the others.
    """
    signature = inspect.signature(command, eval_str=True)
    declared = recipe_options()
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name == "options":
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters += [
                inspect.Parameter(name, kind, default=None, annotation=option)
                for name, option in (*declared.items(), *DATA_OPTIONS.items())
            ]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def collected(**values: Any) -> None:
        options = {name: values.pop(name) for name in declared}
        source = as_calibration({name: values.pop(name) for name in DATA_OPTIONS})
        if source is not None:
            if options["calibration"] is not None:
                raise typer.BadParameter("calibration data is given twice", param_hint="--calibration")
            options["calibration"] = source
        command(**values, options={name: value for name, value in options.items() if value not in (None, [])})

    collected.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return collected
