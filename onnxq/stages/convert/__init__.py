"""convert: a model that came quantized -> the same in another format, its own parameters kept."""

from __future__ import annotations

from onnxq.stages.convert.stage import Converted, convert, with_imported, with_rest_in_float

__all__ = ["Converted", "convert", "with_imported", "with_rest_in_float"]
