"""Where it is kept which faults this machine's onnxruntime has: one file beside the measured costs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import IO

from onnxq.files.costs import cost_file
from onnxq.graph.atomic import FileBatch


def fault_file(onnxruntime: str) -> Path:
    """Return the file: in the folder of measured costs, for this processor and a version of onnxruntime."""
    return cost_file("faults", onnxruntime)


def load_findings(onnxruntime: str) -> dict[str, bool]:
    """Return what was found before, by the digest of the cases that showed it; {} where nothing can be read."""
    try:
        findings = json.loads(fault_file(onnxruntime).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it is only kept to save milliseconds
        return {}
    entries = findings.items() if isinstance(findings, dict) else ()
    return {key: value for key, value in entries if isinstance(value, bool)}


def save_findings(onnxruntime: str, findings: dict[str, bool]) -> None:
    """Keep what was found; where nothing can be written it is found out again next time."""

    def fill(file: IO[bytes]) -> None:
        file.write(json.dumps(findings, indent=1, sort_keys=True).encode())

    path = fault_file(onnxruntime)
    with contextlib.suppress(OSError), FileBatch() as batch:
        path.parent.mkdir(parents=True, exist_ok=True)
        batch.write(path, fill)
        batch.commit()
