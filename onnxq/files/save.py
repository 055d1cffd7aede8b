"""Save: temporary files in the same folder, then one rename; an interrupted run leaves the old file or none."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from onnxq.errors import ModelError
from onnxq.graph.atomic import FileBatch, remove
from onnxq.graph.storage import data_files, files_read_by, has_data_files, to_proto, write_model

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Companion", "SavedModel", "check_writable", "has_data_files", "save", "to_proto", "write_bytes"]


def check_writable(path: Path, force: bool, companions: Iterable[Path] = ()) -> None:
    """Check before any work starts that `save` will be able to write.

    Raises:
        ModelError: the folder is missing or read-only, or a file is there already and `force` is not given.
    """
    path = Path(path)
    for target in (path, *map(Path, companions)):
        if target.exists() and not target.is_file():
            raise ModelError(f"output '{target}' is not a file; name a file")
        if os.path.lexists(target) and not force:
            raise ModelError(f"output '{target}' exists already; choose another name, or overwrite it with --force")
        folder = target.parent
        if not folder.is_dir():
            raise ModelError(f"output folder '{folder}' does not exist; create it first")
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ModelError(f"output folder '{folder}' cannot be written: {error.strerror}; choose another") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedModel:
    """What a saved model came to: bytes on disk, external data included, and the sha256 of the model's own file."""

    size: int
    sha256: str


Companion = bytes | Callable[[SavedModel], bytes]
"""Content of a file that belongs to a model, or a function that makes it once the model's own file is known."""


def save(
    model: ir.Model,
    path: Path,
    *,
    force: bool,
    companions: Mapping[Path, Companion] | None = None,
    streamed: bool = False,
) -> None:
    """Write the model, and files that belong to it, whole or not at all; `model` stays as it is.

    Weights go to an external data file next to the model when together they are over 2 GB, or over 128 MB and on disk
    still (or `streamed`); they are written one tensor at a time.

    Args:
        model: what to write.
        path: the model's file.
        force: overwrite what is there.
        companions: more files to write the same way (a report), with their content.
        streamed: whether what it was made from lay in data files: memory may not hold it as one message.

    Raises:
        ModelError: something is there already and `force` is not given, or writing failed; the old files are untouched.
    """
    path = Path(path)
    companions = {Path(name): content for name, content in (companions or {}).items()}
    check_writable(path, force, companions)
    stale = data_files(path)
    try:
        with FileBatch() as batch:
            write_model(model, path, batch, streamed=streamed)
            files = batch.written
            for name, content in companions.items():
                data = content if isinstance(content, bytes) else content(_measure(files, path))
                batch.write(name, partial(_write_bytes, content=data))
            batch.commit()
    except OSError as error:
        raise ModelError(f"'{path}' could not be saved: {_advice(error)}; nothing was changed") from error
    remove(stale - data_files(path) - files_read_by(model))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; what is there is overwritten.

    Raises:
        ModelError: it could not be written.
    """
    try:
        with FileBatch() as batch:
            batch.write(path, partial(_write_bytes, content=content))
            batch.commit()
    except OSError as error:
        raise ModelError(f"'{path}' could not be written: {_advice(error)}; nothing was changed") from error


def _measure(files: Mapping[Path, Path], path: Path) -> SavedModel:
    with files[path].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SavedModel(size=sum(temporary.stat().st_size for temporary in files.values()), sha256=digest)


def _write_bytes(file: IO[bytes], *, content: bytes) -> None:
    file.write(content)


def _advice(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # no space, over quota, over the file size limit
        return f"{error.strerror}; free space or choose another folder"
    return f"{error.strerror or error}; check the folder and its permissions"
