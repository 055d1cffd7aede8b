"""Checkpoint: what a search has measured so far, in a file, so that an interrupted one goes on from there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from onnxq.data.source import Source
from onnxq.errors import ModelError
from onnxq.files.save import write_bytes
from onnxq.graph.atomic import remove
from onnxq.types.plain_data import from_plain, plain
from onnxq.types.recipe import Recipe
from onnxq.types.statistics import Statistics

_VERSION = 1
T = TypeVar("T")


class SearchCheckpoint:
    """Measurements by name; written down whole after each, if there is a file.

    Attributes:
        restored: how many measurements the file held.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        """Open a checkpoint.

        Args:
            path: its file; None to keep measurements in memory alone.
            key: of `checkpoint_key`; what the file holds counts only if it has the same key.
        """
        self._path, self._key = path, key
        self._entries: dict[str, Any] = {}
        self.restored = 0
        if path is not None and path.is_file():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return
            if isinstance(stored, dict) and (stored.get("version"), stored.get("key")) == (_VERSION, key):
                self._entries = dict(stored["entries"])
                self.restored = len(self._entries)

    def recall(self, name: str, cls: type[T], measure: Callable[[], T | None]) -> T | None:
        """Return what was measured under a name, a dataclass or None; measure it if it was not."""
        if name in self._entries:
            entry = self._entries[name]
            return None if entry is None else from_plain(cls, entry, what=f"'{self._path}'", error=ModelError)
        measured = measure()
        self._entries[name] = plain(measured)
        if self._path is not None:
            text = json.dumps({"version": _VERSION, "key": self._key, "entries": self._entries}, allow_nan=False)
            write_bytes(self._path, text.encode())
        return measured

    def close(self) -> None:
        """Take the file away."""
        if self._path is not None:
            remove([self._path])


def checkpoint_path(output: Path) -> Path:
    """Return where a search keeps what it has measured until it is done: `model.int8.onnx` -> `.model.int8.search`."""
    return output.parent / f".{output.stem}.search"


def checkpoint_key(recipe: Recipe, statistics: Statistics, source: Source, versions: dict[str, str]) -> str:
    """Return what measurements depend on: the model, the choices, the data, and the runtime, whatever the budget is.

    Args:
        recipe: with its search.
        statistics: they represent model and calibration data.
        source: evaluation data, whose first batch represents it where it has no file.
        versions: of what runs the models.
    """
    digest = hashlib.sha256()
    options = recipe.plain()
    for limit in ("min_sqnr", "max_drop", "max_ppl_increase"):
        options[limit] = limit in options  # it decides what is scored; how much is allowed is judged again
    del options["tries"]
    tensors = {
        name: (each.count, float(each.minimum), float(each.maximum)) for name, each in statistics.tensors.items()
    }
    parts = [options, statistics.fingerprint, statistics.samples, tensors, versions]
    digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    if source.sha256 is not None:
        digest.update(source.sha256.encode())
    else:
        for name, array in next(iter(source.batches())).feeds.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
