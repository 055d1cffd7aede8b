"""The contestants in every format: what onnxq makes of a zoo model with some options, and onnxruntime's own quantizers.

Each is a function of the model's name and the path to write; options that are the same for all stand in the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import models
from benchmarks.tools import quiet, reader

Make = Callable[[str, Path], None]


def ours(name: str, output: Path, **options: Any) -> None:
    """``onnxq.quantize(model, output, calibration=data, **options)``."""
    import onnxq

    zoo = models.load(name)
    onnxq.quantize(zoo.path, output, calibration=zoo.calibration, check=False, force=True, **options)


def static(name: str, output: Path, *, qoperator: bool) -> None:
    """``quantize_static``, uint8 activations and int8 weights, per channel, in one of its two formats."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quiet()
    zoo = models.load(name)
    quantize_static(
        zoo.path,
        output,
        reader(zoo.calibration()),
        quant_format=QuantFormat.QOperator if qoperator else QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def dynamic(name: str, output: Path, **options: Any) -> None:
    """``quantize_dynamic``."""
    from onnxruntime.quantization import quantize_dynamic

    quiet()
    quantize_dynamic(models.load(name).path, output, **options)


def blocks(name: str, output: Path, *, algorithm: str = "", **options: Any) -> None:
    """``MatMulNBitsQuantizer``, blocks of 32, accuracy_level 4; hqq needs torch."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    quiet()
    algorithms = {
        "": lambda: None,
        "k_quant": nbits.KQuantWeightOnlyQuantConfig,
        "hqq": lambda: nbits.HQQWeightOnlyQuantConfig(block_size=32),
    }
    loaded = onnx.load(str(models.load(name).path))
    quantizer = nbits.MatMulNBitsQuantizer(
        loaded, block_size=32, accuracy_level=4, algo_config=algorithms[algorithm](), **options
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(output))


def half(name: str, output: Path) -> None:
    """``onnxruntime.transformers.float16.convert_float_to_float16``, inputs and outputs as they were."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    quiet()
    onnx.save(convert_float_to_float16(onnx.load(str(models.load(name).path)), keep_io_types=True), str(output))


_EIGHT = {"dtype": "int8", "symmetric": True, "granularity": "per-channel"}
_INT4 = {"dtype": "int4", "symmetric": True}
_TWO = {"dtype": "uint2", "symmetric": False, "granularity": "per-block(32)"}

OURS: Mapping[str, Mapping[str, Any]] = {
    "qdq": {"format": "qdq"},
    "qdq, everywhere": {"format": "qdq", "placement": "everywhere"},
    "qdq, weights per tensor": {"format": "qdq", "weights": "per-tensor"},
    "qoperator": {"format": "qoperator"},
    "dynamic": {"format": "dynamic"},
    "dynamic, portable": {"format": "dynamic", "portable": True},
    "dynamic, per token": {"format": "dynamic", "activations": "per-token"},
    "weight-only, 8 bits": {"format": "weight-only", "weights": _EIGHT},
    "weight-only": {"format": "weight-only"},
    "weight-only, products": {"format": "weight-only", "keep": "Gather"},
    "weight-only, products, importance": {
        "format": "weight-only",
        "keep": "Gather",
        "weights": {"method": "mse:importance=true"},
    },
    "weight-only, products, symmetric": {"format": "weight-only", "keep": "Gather", "weights": _INT4},
    "weight-only, portable": {"format": "weight-only", "portable": True},
    "weight-only, 2 bits": {"format": "weight-only", "weights": _TWO},
    "weight-only, codebook(4)": {"format": "weight-only", "weights": "codebook(4)"},
    "float16": {"recipe": "fp16"},
    "bfloat16": {"recipe": "fp16", "float_type": "bfloat16"},
    "auto": {"format": "auto"},
}

THEIRS: Mapping[str, Mapping[str, Make]] = {  # behind which of ours each stands
    "qdq, weights per tensor": {"quantize_static, QDQ": partial(static, qoperator=False)},
    "qoperator": {"quantize_static, QOperator": partial(static, qoperator=True)},
    "dynamic, per token": {
        "quantize_dynamic": dynamic,
        "quantize_dynamic, per channel": partial(dynamic, per_channel=True),
    },
    "weight-only, 8 bits": {"MatMulNBits, 8 bits": partial(blocks, bits=8)},
    "weight-only, portable": {
        "MatMulNBits": partial(blocks, bits=4),
        "MatMulNBits, symmetric": partial(blocks, bits=4, is_symmetric=True),
        "MatMulNBits, k_quant": partial(blocks, bits=4, algorithm="k_quant"),
        "MatMulNBits, hqq": partial(blocks, bits=4, algorithm="hqq"),
    },
    "weight-only, 2 bits": {"MatMulNBits, 2 bits": partial(blocks, bits=2)},
    "float16": {"convert_float_to_float16": half},
}


_FOR_PRODUCTS = ("products", "symmetric", "k_quant", "hqq")


def contestants(name: str) -> dict[tuple[str, str], Make]:
    """Return (whose, what) -> how it is made, in the order of the table; variants for products of minilm alone."""
    found: dict[tuple[str, str], Make] = {}
    for label, options in OURS.items():
        found["onnxq", label] = partial(ours, **options)
        found |= {("onnxruntime", tool): make for tool, make in THEIRS.get(label, {}).items()}
    if name == "minilm":
        return found
    return {by: make for by, make in found.items() if not any(variant in by[1] for variant in _FOR_PRODUCTS)}
