"""Calibration data by kind: `--images DIR --size 224`, `--text FILE --tokenizer FILE`, `--wav DIR --frame 512`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

_PANEL = "Data by kind, instead of --calibration"


def _option(metavar: str, text: str) -> Any:
    return Annotated[str | None, typer.Option(metavar=metavar, help=text, rich_help_panel=_PANEL)]


KINDS = {
    "images": ("size", "mean", "std", "scale", "layout", "fit", "resize", "color"),
    "text": ("tokenizer", "max_length"),
    "wav": ("frame", "hop", "rate"),
}

DATA_OPTIONS: dict[str, Any] = {
    "images": _option("FOLDER", "Photographs."),
    "size": _option("N|H,W", "Pixels they are cut to."),
    "mean": _option("X|X,Y,Z", "Subtracted from each channel of pixels 0..1."),
    "std": _option("X|X,Y,Z", "What each channel is then divided by."),
    "scale": _option("X", "Factor on pixels 0..255 instead of 1/255."),
    "layout": _option("NAME", "nchw or nhwc."),
    "fit": _option("NAME", "crop, stretch or pad."),
    "resize": _option("N", "Length of the shorter side before the cut."),
    "color": _option("NAME", "rgb, bgr or gray."),
    "text": _option("FILE", "Text, a sample a line."),
    "tokenizer": _option("FILE", "tokenizer.json that turns it into numbers."),
    "max_length": _option("N", "Most tokens of a line."),
    "wav": _option("FOLDER", "Sound in .wav files."),
    "frame": _option("N", "Values of a sample."),
    "hop": _option("N", "Distance of samples."),
    "rate": _option("HZ", "Sampling rate that the files must have."),
}


def as_calibration(given: dict[str, Any]) -> str | None:
    """Return the data source that the options describe, None if none was given.

    Raises:
        RecipeError: two kinds at once, or an option of a kind that is not given.
    """
    from onnxq.data.spec import format_spec
    from onnxq.errors import RecipeError

    chosen = [kind for kind in KINDS if given.get(kind) is not None]
    if len(chosen) > 1:
        raise RecipeError(f"calibration data is of one kind, not --{' and --'.join(chosen)}")
    for kind, names in KINDS.items():
        for name in names:
            if kind not in chosen and given.get(name) is not None:
                raise RecipeError(f"--{name.replace('_', '-')} goes with --{kind}, which is not given")
    if not chosen:
        return None
    return format_spec(chosen[0], given[chosen[0]], **{name: given.get(name) for name in KINDS[chosen[0]]})
