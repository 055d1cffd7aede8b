"""Reproducers: everything needed to see a failing pass fail again, in one folder."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.errors import PassError
from onnxq.graph.atomic import FileBatch
from onnxq.graph.storage import write_model
from onnxq.passes.pipeline import PassStep, show

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL, PIPELINE, REPORT = "model.onnx", "pipeline.txt", "README.txt"


def write_reproducer(
    parent: Path, model: ir.Model, remainder: Sequence[PassStep], message: str, cause: BaseException | None
) -> Path:
    """Write the model as it was before the failing pass, and the rest of the pipeline, to a new folder in `parent`.

    The folder is called after the pass; its README.txt holds the failure and the command that replays it.

    Returns:
        The folder.

    Raises:
        PassError: the folder cannot be written; the message still tells the failure.
    """
    stem = re.sub(r"[^\w.-]", "_", remainder[0].name)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        number = 1
        while (folder := parent / f"{stem}-{number}").exists():
            number += 1
        folder.mkdir()
        dump_model(model, folder / MODEL)
        (folder / PIPELINE).write_text(show(remainder) + "\n", encoding="utf-8")
        trace = "".join(traceback.format_exception(cause)) if cause is not None else ""
        replay = f"python -m onnxq.passes.replay '{folder.absolute()}'"
        (folder / REPORT).write_text(f"{message}\n\nReplay with:\n    {replay}\n\n{trace}", encoding="utf-8")
    except OSError as error:
        raise PassError(f"{message}; no reproducer: '{parent}' cannot be written ({error.strerror})") from error
    return folder


def dump_model(model: ir.Model, path: Path) -> None:
    """Write `model` to `path`, over what is there, with its weights; the folder is made if need be.

    Raises:
        PassError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileBatch() as batch:
            write_model(model, path, batch)
            batch.commit()
    except OSError as error:
        raise PassError(f"the model cannot be dumped to '{path}': {error.strerror}; choose another place") from error
