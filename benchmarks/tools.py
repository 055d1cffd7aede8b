"""The contestants: each makes an 8-bit QDQ model of a zoo model from the same calibration batches."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
from models import Feeds


def onnxq_defaults(name: str, output: Path) -> None:
    """Ours: ``onnxq.quantize(format="qdq")`` and nothing else said."""
    import onnxq

    zoo = models.load(name)
    onnxq.quantize(zoo.path, output, calibration=zoo.calibration, format="qdq", check=False, force=True)


def onnxruntime_defaults(name: str, output: Path) -> None:
    """``onnxruntime.quantization.quantize_static`` with model, output and data and nothing else said."""
    from onnxruntime.quantization import quantize_static

    quiet()
    zoo = models.load(name)
    quantize_static(zoo.path, output, reader(zoo.calibration()))


def onnxruntime_tuned(name: str, output: Path) -> None:
    """The same as its documentation advises: preprocessed, uint8 activations, int8 weights, a scale per channel."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quiet()
    zoo = models.load(name)
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(zoo.path, prepared)
        except Exception:  # its symbolic shapes give up on some models with an exception of no particular kind
            quant_pre_process(zoo.path, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            output,
            reader(zoo.calibration()),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=False,
        )


TOOLS: dict[str, Callable[[str, Path], None]] = {
    "onnxq": onnxq_defaults,
    "onnxruntime": onnxruntime_defaults,
    "onnxruntime, tuned": onnxruntime_tuned,
}


def reader(batches: Iterator[Feeds]) -> Any:
    """Return batches as onnxruntime's quantizer reads them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Feeds | None:
            return next(batches, None)

    return Reader()


def quiet() -> None:
    """Keep onnxruntime's quantizer from talking."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
