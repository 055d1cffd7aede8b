"""Writing files that appear together: whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO


class FileBatch:
    """Files that appear together: written under temporary names, made durable, then renamed in the order written."""

    def __init__(self) -> None:
        self._temporaries: list[Path] = []
        self._moves: list[tuple[Path, Path]] = []

    def __enter__(self) -> FileBatch:
        return self

    def __exit__(self, *_: object) -> None:
        remove(self._temporaries)

    def write(self, near: Path, fill: Callable[[IO[bytes]], Path | None]) -> None:
        """Write one file beside `near` with `fill`, which may return its final path; None means `near`."""
        temporary = near.parent / f".{near.name[:40]}.{secrets.token_hex(4)}.tmp"
        self._temporaries.append(temporary)  # before it exists, so that no interruption can leave it behind
        with temporary.open("xb") as file:
            target = fill(file) or near
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # keep the permissions of what is overwritten
            shutil.copymode(target, temporary)
        self._moves.append((temporary, target))

    @property
    def written(self) -> dict[Path, Path]:
        """Final path -> temporary file that holds what will stand there."""
        return {target: temporary for temporary, target in self._moves}

    def commit(self) -> None:
        """Rename everything; a rename replaces the old file at once or not at all.

        Interrupted, it takes back what it has put there, unless an old file is already gone: what was renamed first may
        then be what the new one needs.
        """
        existed = {target: target.exists() for _, target in self._moves}
        try:
            for temporary, target in self._moves:
                temporary.replace(target)
                _sync_folder(target.parent)
        except BaseException:
            renamed = [target for temporary, target in self._moves if not temporary.exists()]
            if not any(existed[target] for target in renamed):
                remove(renamed)
            raise


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every system can sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove(paths: Iterable[Path]) -> None:
    """Delete the files that are there and can be deleted."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
