"""Files of a kind in a folder, in natural order."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from onnxq.errors import CalibrationError, nearest


def list_files(path: Path, suffixes: Collection[str], kind: str, hint: str = "") -> list[Path]:
    """Return the files under `path` (or itself) with one of `suffixes`, sample2 before sample10.

    Args:
        path: a file, or a folder that is searched with its subfolders.
        suffixes: in lower case.
        kind: what such a file is, for messages.
        hint: what to do if there is none.

    Raises:
        CalibrationError: no such path, or no such file in it.
    """
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise CalibrationError(f"'{path}' is not one of the {kind} files ({', '.join(suffixes)}){hint}")
        return [path]
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise CalibrationError(f"no file or folder '{path}'{nearest(path.name, siblings) if siblings else ''}")
    files = [entry for entry in path.rglob("*") if entry.suffix.lower() in suffixes and entry.is_file()]
    if not files:
        kinds = sorted({entry.suffix or entry.name for entry in path.iterdir()})[:8]
        raise CalibrationError(f"folder '{path}' holds no {kind} file, only {', '.join(kinds) or 'nothing'}{hint}")
    return sorted(files, key=lambda file: _natural(str(file.relative_to(path))))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
