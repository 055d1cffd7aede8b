"""Report as JSON: everything but the model itself, in a fixed order, valid whatever the numbers are."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from onnxq.types.plain_data import plain
from onnxq.types.report import Report

VERSION = 1


def report_to_plain(report: Report) -> dict[str, Any]:
    """Return the report as plain data; see `onnxq.types.plain_data.plain` for infinities and NaN."""
    return {"version": VERSION} | {
        field.name: plain(getattr(report, field.name)) for field in dataclasses.fields(report) if field.name != "model"
    }


def report_to_json(report: Report) -> str:
    """Return the report as JSON text."""
    return json.dumps(report_to_plain(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
