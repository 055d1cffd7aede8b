"""The contestants in weight-only formats: each makes a model with 4-bit weights of a zoo model; no data is needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

import models

BLOCK = 32


def onnxq_weights(name: str, output: Path, **options: Any) -> None:
    """Ours: ``onnxq.quantize(format="weight-only")``, with or without more said."""
    import onnxq

    onnxq.quantize(models.load(name).path, output, format="weight-only", check=False, force=True, **options)


def onnxq_defaults(name: str, output: Path) -> None:
    """Ours as it comes: products and embeddings, blocks of 32, zero points."""
    onnxq_weights(name, output)


def onnxq_products(name: str, output: Path) -> None:
    """Ours on products alone, as onnxruntime's quantizer does it."""
    onnxq_weights(name, output, keep="Gather")


def onnxq_products_symmetric(name: str, output: Path) -> None:
    """The same without zero points."""
    onnxq_weights(name, output, keep="Gather", weights={"dtype": "int4", "symmetric": True})


def onnxruntime_default(name: str, output: Path) -> None:
    """MatMulNBitsQuantizer's default algorithm."""
    _onnxruntime(name, output)


def onnxruntime_symmetric(name: str, output: Path) -> None:
    """The same without zero points."""
    _onnxruntime(name, output, symmetric=True)


def onnxruntime_k_quant(name: str, output: Path) -> None:
    """MatMulNBitsQuantizer with k_quant."""
    from onnxruntime.quantization.matmul_nbits_quantizer import KQuantWeightOnlyQuantConfig

    _onnxruntime(name, output, algorithm=KQuantWeightOnlyQuantConfig())


def onnxruntime_hqq(name: str, output: Path) -> None:
    """MatMulNBitsQuantizer with hqq; needs torch."""
    from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig

    _onnxruntime(name, output, algorithm=HQQWeightOnlyQuantConfig(block_size=BLOCK))


def _onnxruntime(name: str, output: Path, *, symmetric: bool = False, algorithm: Any = None) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    logging.disable(logging.WARNING)
    quantizer = MatMulNBitsQuantizer(
        onnx.load(str(models.load(name).path)),
        bits=4,
        block_size=BLOCK,
        is_symmetric=symmetric,
        accuracy_level=4,
        algo_config=algorithm,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(output))


WEIGHT_ONLY: Mapping[str, Callable[[str, Path], None]] = {
    "onnxq": onnxq_defaults,
    "onnxq, products alone": onnxq_products,
    "onnxq, products alone, symmetric": onnxq_products_symmetric,
    "onnxruntime": onnxruntime_default,
    "onnxruntime, symmetric": onnxruntime_symmetric,
    "onnxruntime, k_quant": onnxruntime_k_quant,
    "onnxruntime, hqq": onnxruntime_hqq,
}
