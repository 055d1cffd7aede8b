"""Where measured costs are kept: one file for each target, processor and version of onnxruntime."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from onnxq.errors import ModelError, RecipeError
from onnxq.graph.atomic import FileBatch
from onnxq.targets.processor import this_processor
from onnxq.types.costs import CostTable
from onnxq.types.plain_data import from_plain, plain


def cost_file(target: str, onnxruntime: str) -> Path:
    """Return the file of a target's costs: in `$ONNXQ_COSTS`, else `onnxq/costs` in `$XDG_CACHE_HOME` or `~/.cache`."""
    own = os.environ.get("ONNXQ_COSTS")
    folder = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxq" / "costs"
    key = hashlib.sha256(f"{this_processor()} {onnxruntime}".encode()).hexdigest()[:12]
    return folder / f"{target}-{onnxruntime}-{key}.json"


def load_costs(target: str) -> CostTable | None:
    """Return what was measured for a target on this machine and the installed onnxruntime, None if nothing was.

    Raises:
        RecipeError: the file cannot be read, or holds something else.
    """
    installed = installed_version()
    if installed is None:
        return None
    path = cost_file(target, installed)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"'{path}' cannot be read: {error}; measure again (onnxq targets --measure), or delete it"
        ) from error
    return from_plain(CostTable, data, what=f"'{path}'", error=RecipeError)


def save_costs(table: CostTable) -> Path:
    """Keep a table and return its file.

    Raises:
        ModelError: it cannot be written.
    """

    def fill(file: IO[bytes]) -> None:
        file.write(json.dumps(plain(table), indent=1).encode())

    path = cost_file(table.target, table.onnxruntime)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileBatch() as batch:
            batch.write(path, fill)
            batch.commit()
    except OSError as error:
        raise ModelError(f"'{path}' cannot be written: {error.strerror}; set ONNXQ_COSTS to another folder") from error
    return path


def installed_version() -> str | None:
    """Return the version of onnxruntime that is installed, without loading it; None if none is."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
