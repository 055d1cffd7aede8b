"""A quantized model and its report, written together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxq.files.report import report_to_json
from onnxq.files.save import Written, save
from onnxq.types.report import Report

if TYPE_CHECKING:
    import onnx_ir as ir


def report_path(output: Path) -> Path:
    """Return where the report of a quantized model goes: `model.int8.onnx` -> `model.int8.report.json`."""
    return output.parent / f"{output.stem}.report.json"


def save_with_report(model: ir.Model, output: Path, report: Report, *, force: bool, streamed: bool) -> Report:
    """Write a model and its report whole or not at all; return the report, with size and hash of what was written.

    Args:
        model: quantized. output: its file. report: on it. force, streamed: as for `save`.

    Raises:
        ModelError: as for `save`.
    """
    saved = replace(report, output=str(output))

    def finished(written: Written) -> bytes:
        nonlocal saved
        hashes = {**report.hashes, "output": written.sha256}
        saved = replace(saved, quantized_bytes=written.size, hashes=hashes)
        return report_to_json(saved).encode()

    save(model, output, force=force, companions={report_path(output): finished}, streamed=streamed)
    return saved
