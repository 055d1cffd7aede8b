"""What 16-bit sums of pairs cost on a processor without VNNI, and what choosing weights for them saves.

    python -m benchmarks.saturation [--models digits,ppocr-rec] [--batches 4] [--markdown docs/benchmarks.md]

Every model is quantized several ways, and each result is run twice: by onnxruntime here with its optimizer off, which
is what the graph promises, and as served on a processor without VNNI: this one, or valgrind's where this one has VNNI.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnxq
from onnxq.numerics.affine import params_from_range, quantize, weight_range
from onnxq.numerics.metrics import ErrorSums, argmax_agreement
from onnxq.runtime.saturation import adds_pairs, emulated_without_vnni
from onnxq.runtime.session import open_session
from onnxq.types.inputs import Inputs, Needs
from onnxq.types.scheme import QuantParams, Scheme
from onnxq.weights import weight_methods
from rich.console import Console
from rich.table import Table

import models
from benchmarks.measure import environment, write_section

SECTION = "saturation"
MODELS = ("digits", "ppocr-rec", "ppocr-det", "minilm")
_MOST_7_BITS = 64


@weight_methods.register("seven-bits")
@dataclass(frozen=True, kw_only=True, slots=True)
class SevenBits:
    """The usual advice for processors without VNNI: weights whose codes stay within 64."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def __call__(
        self,
        weight: npt.NDArray[np.float32],
        scheme: Scheme,
        *,
        min_scale: npt.NDArray[np.float32] | None = None,
        inputs: Inputs | None = None,
    ) -> tuple[npt.NDArray[Any], QuantParams]:
        """Quantize `weight`; see WeightMethod."""
        low, high = (np.asarray(bound * scheme.dtype.maximum / _MOST_7_BITS) for bound in weight_range(weight, scheme))
        params = params_from_range(low, high, scheme, min_scale=min_scale)
        return quantize(weight, params), params


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain 8 bit": {"target": "cpu-vnni"},
    "7-bit weights": {"target": "cpu-vnni", "weights": {"method": "seven-bits"}},
    "pair-safe (cpu-avx2)": {"target": "cpu-avx2"},
    "uint8 weights, slower": {"target": "cpu-avx2", "weights": {"dtype": "uint8", "symmetric": False}},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """SQNR in dB of the first output, optimizer off and as served without VNNI, and arg-max agreement as served."""

    plain: float
    served: float
    agreement: float | None


def measure(name: str, fmt: str, batches: int, folder: Path) -> dict[str, Score]:
    """Quantize a model of the zoo every way and score each on the first batches of its evaluation data."""
    zoo = models.load(name)
    feeds = [batch for batch, _ in zip(zoo.evaluation(), range(batches), strict=False)]
    for index, batch in enumerate(feeds):
        np.savez(folder / f"feeds{index}.npz", **batch)  # type: ignore[arg-type]
    reference = open_session(zoo.path, optimize=False)
    expected = [reference.run(batch) for batch in feeds]
    found = {}
    for variant, options in VARIANTS.items():
        path = folder / "model.onnx"
        onnxq.quantize(zoo.path, path, calibration=zoo.calibration, format=fmt, check=False, force=True, **options)
        session = open_session(path, optimize=False)
        off = [session.run(batch) for batch in feeds]
        found[variant] = _score(expected, off, served_without_vnni(path, folder, len(feeds)))
        print(f"{name} {fmt} {variant}: {found[variant]}", file=sys.stderr)
    return found


def served_without_vnni(path: Path, folder: Path, count: int) -> list[dict[str, npt.NDArray[Any]]]:
    """Return the outputs of a model for the feeds in the folder, as a processor without VNNI computes them."""
    if adds_pairs():
        run(path, folder, count)
    else:
        command = emulated_without_vnni("benchmarks.saturation", "--run", str(path), str(folder), str(count))
        if command is None:
            raise SystemExit("this processor has VNNI; install valgrind to run models as one without it does")
        subprocess.run(command, check=True)
    return [dict(np.load(folder / f"outputs{index}.npz")) for index in range(count)]


def run(path: Path, folder: Path, count: int) -> None:
    """Run a model as served on the feeds in the folder, and keep its outputs there."""
    session = open_session(path)
    for index in range(count):
        outputs = session.run(dict(np.load(folder / f"feeds{index}.npz")))
        np.savez(folder / f"outputs{index}.npz", **outputs)  # type: ignore[arg-type]


def _score(expected: Sequence[Any], plain: Sequence[Any], served: Sequence[Any]) -> Score:
    output = next(iter(expected[0]))
    off, on, agreeing = ErrorSums(), ErrorSums(), np.zeros(2, dtype=np.int64)
    for x, y, z in zip(expected, plain, served, strict=True):
        off.add(x[output], y[output])
        on.add(x[output], z[output])
        agreeing += argmax_agreement(x[output], z[output]) or (0, 0)
    return Score(
        plain=off.sqnr_db, served=on.sqnr_db, agreement=float(agreeing[0] / agreeing[1]) if agreeing[1] else None
    )


def rows(results: Mapping[tuple[str, str], Mapping[str, Score]]) -> list[list[str]]:
    """One row a model, format and variant."""
    return [
        [
            name,
            fmt,
            variant,
            f"{score.plain:.1f}",
            f"{score.served:.1f}",
            "" if score.agreement is None else f"{score.agreement:.1%}",
        ]
        for (name, fmt), found in results.items()
        for variant, score in found.items()
    ]


HEAD = ("model", "format", "weights", "dB, optimizer off", "dB as served", "agreement as served")


def markdown(table: Sequence[Sequence[str]], batches: int) -> str:
    """The table as Markdown, with where it comes from."""
    where = environment(("onnxruntime",))
    how = "on this processor" if adds_pairs() else "on valgrind's processor, which has AVX2 and no VNNI"
    lines = [
        "## Processors without VNNI",
        "",
        f"{where.date}, {where.processor}, onnxruntime {where.versions['onnxruntime']}, first {batches} batches of "
        f"each model's evaluation data; as served {how}. Agreement: where the largest class is the float model's.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|---" * len(HEAD) + "|",
        *("| " + " | ".join(row) + " |" for row in table),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--formats", default="qdq")
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--run", nargs=3, metavar=("MODEL", "FOLDER", "COUNT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.run:
        run(Path(chosen.run[0]), Path(chosen.run[1]), int(chosen.run[2]))
        return 0
    results = {}
    for name in chosen.models.split(","):
        for fmt in chosen.formats.split(","):
            with tempfile.TemporaryDirectory() as folder:
                results[name, fmt] = measure(name, fmt, chosen.batches, Path(folder))
    table = Table(*HEAD)
    for row in rows(results):
        table.add_row(*row)
    Console().print(table)
    if chosen.markdown is not None:
        write_section(chosen.markdown, SECTION, markdown(rows(results), chosen.batches))
    return 0


if __name__ == "__main__":
    sys.exit(main())
