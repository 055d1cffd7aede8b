"""convert: a model that was imported quantized -> the same in another format, with its own codes and parameters."""

from __future__ import annotations

from onnxq.stages.convert.imported_codes import ImportedCodes
from onnxq.stages.convert.imported_weights import is_unchanged, with_rules_for
from onnxq.stages.convert.stage import Converted, convert_and_prepare, with_imported, with_rest_in_float

__all__ = [
    "Converted",
    "ImportedCodes",
    "convert_and_prepare",
    "is_unchanged",
    "with_imported",
    "with_rest_in_float",
    "with_rules_for",
]
