"""Who quantizes language models' weights, and how."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models

KEPT = ["Gather", "/lm_head/MatMul"]
STATISTICS = "statistics.onnxq"
WINDOWS = {"smollm2": 32, "novel": 16}
"""Calibration batches that are read."""
RECIPES = ("absmax-int8", "zeropoint-int8", "llm-int8", "zeroquant", "gptq-int4")
"""Built-in recipes, each with bits and blocks of its own."""
TABLES: Mapping[str, Mapping[str, dict[str, Any]]] = {
    "4x32": {
        "codebook(4), importance": {"codebook": 4, "method": "kmeans:importance=true"},
        "codebook(8), vectors of 2": {"codebook": 8, "vector": 2, "method": "kmeans:importance=true"},
    },
    "2x32": {
        "codebook(8), vectors of 4": {"codebook": 8, "vector": 4, "method": "kmeans:importance=true"},
    },
}
"""Weights as indices into tables of values, by the setting that they are to be compared with: as many bits a code."""
OURS: Mapping[str, str] = {
    "rtn": "rtn",
    "mse": "mse:negative_scales=true",
    "mse, importance": "mse:importance=true,negative_scales=true",
    "hqq": "hqq:negative_scales=true",
    "lkd": "lkd:negative_scales=true",
    "adaround": "adaround:negative_scales=true",
    "gptq": "gptq:sweeps=3,negative_scales=true",
    "gptq, no sweeps": "gptq:negative_scales=true",
    "gptq, in order": "gptq:sweeps=3,negative_scales=true,sequential=true",
}
ONNXRUNTIME = ("default", "rtn", "k_quant", "hqq")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Bits a code, weights that share a scale, and whether there are zero points."""

    bits: int
    block: int
    symmetric: bool = False

    @property
    def weights(self) -> dict[str, Any]:
        """The recipe's `weights`, the method left out. No kernel has 3 bits: those are int4 codes of -4 to 3."""
        symmetric = self.symmetric or self.bits == 3
        dtype = f"{'int' if symmetric else 'uint'}{self.bits}"
        return {"dtype": dtype, "symmetric": symmetric, "granularity": f"per-block({self.block})", "narrow": False}


def observe(name: str, folder: Path) -> None:
    """Run the calibration data once for all methods that go by statistics."""
    import onnxq

    options: dict[str, Any] = {"format": "weight-only", "weights": {"method": OURS["gptq"]}}
    onnxq.calibrate(models.load(name).path, folder / STATISTICS, calibration=lambda: _data(name), **options)


def recipe_makes(name: str, output: Path, _: Setting, statistics: Path, recipe: str) -> None:
    """A built-in recipe; all but embedding and scores."""
    import onnxq

    given: dict[str, Any] = {"calibration": lambda: _data(name)}
    if recipe in ("zeroquant", "gptq-int4"):
        given = {"statistics": statistics}
    onnxq.quantize(models.load(name).path, output, recipe=recipe, check=False, guard=False, keep=KEPT, **given)


def table_makes(name: str, output: Path, _: Setting, statistics: Path, weights: dict[str, Any]) -> None:
    """Ours, with tables of values."""
    import onnxq

    options: dict[str, Any] = {"weights": weights, "statistics": statistics, "keep": KEPT}
    onnxq.quantize(models.load(name).path, output, format="weight-only", check=False, guard=False, **options)


def we_make(name: str, output: Path, setting: Setting, statistics: Path, *how: Any) -> None:
    """Ours, with a method; everything, or all but embedding and scores."""
    import onnxq

    _, method, everything = how
    options: dict[str, Any] = {"weights": {**setting.weights, "method": method}}
    if not everything:
        options["keep"] = KEPT
    if "importance" in method or method.split(":")[0] in ("gptq", "lkd", "adaround"):
        options["statistics"] = statistics
    if "sequential" in method:
        options["calibration"] = lambda: _data(name)
    path = models.load(name).path
    onnxq.quantize(path, output, format="weight-only", check=False, **options)


def onnxruntime_makes(name: str, output: Path, setting: Setting, _: Path, algorithm: str) -> None:
    """MatMulNBitsQuantizer with one of its algorithms."""
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as tool

    logging.disable(logging.WARNING)
    chosen = {
        "default": lambda: None,
        "rtn": tool.RTNWeightOnlyQuantConfig,
        "k_quant": tool.KQuantWeightOnlyQuantConfig,
        "hqq": lambda: tool.HQQWeightOnlyQuantConfig(block_size=setting.block, bits=setting.bits),
    }[algorithm]()
    quantizer = tool.MatMulNBitsQuantizer(
        onnx.load(str(models.load(name).path)),
        bits=setting.bits,
        block_size=setting.block,
        is_symmetric=setting.symmetric,
        accuracy_level=4,
        algo_config=chosen,
    )
    quantizer.process()
    quantizer.model.save_model_to_file(str(output))


def _data(name: str) -> Iterator[models.Feeds]:
    return itertools.islice(models.load(name).calibration(), WINDOWS[name])
