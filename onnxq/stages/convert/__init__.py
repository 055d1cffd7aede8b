"""convert: a model that came quantized -> the same in another format, its own parameters kept."""

from __future__ import annotations

from onnxq.stages.convert.imported_weights import (
    ImportedCodes,
    ImportedWeights,
    is_as_it_came,
    with_known,
    with_rules_for,
)
from onnxq.stages.convert.stage import Converted, convert_and_prepare, with_imported, with_rest_in_float

__all__ = [
    "Converted",
    "ImportedCodes",
    "ImportedWeights",
    "convert_and_prepare",
    "is_as_it_came",
    "with_imported",
    "with_known",
    "with_rest_in_float",
    "with_rules_for",
]
