"""Weight methods on language models: perplexity as served, at equal bits and block, next to onnxruntime's quantizer.

python -m benchmarks.methods [--models novel,smollm2] [--settings 4x32,4x128] [--only gptq] [--markdown PAGE]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxq.runtime.session import open_session

import models
from benchmarks.measure import Cost, Failure, environment, isolated, write_section
from benchmarks.methods_tools import (
    ONNXRUNTIME,
    OURS,
    RECIPES,
    STATISTICS,
    TABLES,
    Setting,
    observe,
    onnxruntime_makes,
    recipe_makes,
    table_makes,
    we_make,
)

SECTION = "methods"
NOTES = {
    "smollm2": "The baseline is itself 4-bit: its layers were stored as Q4_1 (a scale and a minimum for 32 weights). "
    "Calibrated on 32 windows of 512 tokens of news and Persuasion; perplexity on the first 4,096 tokens of Emma.",
    "novel": "Trained in float, stored in float16: no grid to be found again. Calibrated on 64 windows of 256 tokens "
    "of Persuasion; perplexity on the first 16,384 tokens of Emma.",
}
SETTINGS = {
    "8x32": Setting(bits=8, block=32),
    "4x32": Setting(bits=4, block=32),
    "4x32s": Setting(bits=4, block=32, symmetric=True),
    "4x128": Setting(bits=4, block=128),
    "3x32": Setting(bits=3, block=32),
    "2x32": Setting(bits=2, block=32),
}
PROMPTS = {"novel": "Emma was", "smollm2": "The best way to learn a language is"}
HEADER = ("bits x block", "by", "perplexity", "of float's", "MB", "s", "peak MB")
LEGEND = """\
- Layers' products alone are quantized, embedding and scores over the vocabulary stay float32, because
  `MatMulNBitsQuantizer` does not reach those; rows marked *all* quantize everything. Every model is run by onnxruntime
  with its optimizations, as written.
- **of float's**: perplexity / that of the float model. **MB**: of the file and its weights. **s**, **peak MB**: time to
  quantize and memory of the process, one thread, calibration not included (its time stands below each table).
- *recipe*: `onnxq quantize --recipe NAME`; the first three have 8-bit activations, too. *codebook*: one table of values
  a weight, no scales: 4.0 and 2.3 bits a weight where blocks of 32 take 5.1 and 3.1.
- `onnxq NAME`: `onnxq quantize --format weight-only --weights dtype=uint4,per-block(32),method=NAME`. 3 bits are stored
  as 4; they are symmetric. *onnxruntime NAME*: `MatMulNBitsQuantizer(bits, block_size, accuracy_level=4)` with that
  algorithm; hqq needs torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One contestant at one setting."""

    setting: str
    by: str
    perplexity: float | Failure
    megabytes: float
    cost: Cost


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", default="novel,smollm2", help="language models of the zoo, separated by commas")
    parser.add_argument(
        "--settings", default=f"recipes,{','.join(SETTINGS)}", help="bits and block, separated by commas"
    )
    parser.add_argument("--only", help="contestants whose name holds this")
    parser.add_argument("--markdown", type=Path, help="page in which to write the tables, in their own section")
    options = parser.parse_args(arguments)
    for name in options.models.split(","):
        lines = table(name, options.settings.split(","), options.only or "")
        text = "\n".join([*lines, "", LEGEND])
        print(text, flush=True)
        if options.markdown is not None:
            write_section(options.markdown, SECTION, text, part=name)
    return 0


def table(name: str, settings: Sequence[str], only: str) -> list[str]:
    """Return the lines of one model's table."""
    where = environment(("onnxq", "onnxruntime"))
    zoo = models.load(name)
    found, _ = isolated(perplexity, name, zoo.path)
    assert isinstance(found, float), found
    lines = [f"## Weight methods: {name}", "", f"{where.date}, {where.processor}, one thread. {NOTES[name]}", ""]
    lines += [f"| {' | '.join(HEADER)} |", f"|{'---|' * 2}{'---:|' * (len(HEADER) - 2)}"]
    lines.append(f"| float | | {found:.2f} | 1 | {megabytes(zoo.path):.1f} | | |")
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        _, observed = isolated(observe, name, Path(folder))
        for result in results(name, settings, only, Path(folder)):
            cells = (f"| {result.setting} | {result.by} |", f"{result.megabytes:.1f}")
            figure = result.perplexity
            score = f"{figure:.2f} | {figure / found:.3f}" if isinstance(figure, float) else f"{figure.text[:80]} | -"
            cost = f"{result.cost.seconds:.0f} | {result.cost.peak_mb:.0f}"
            lines.append(f"{cells[0]} {score} | {cells[1]} | {cost} |")
            print(lines[-1], file=sys.stderr, flush=True)
        samples = [f"  - {by}: {text}" for by, text in written(name, zoo.path, Path(folder))]
    lines += ["", f"Calibration: {observed.seconds:.0f} s, {observed.peak_mb:.0f} MB.", "", "Text, greedily continued:"]
    return [*lines, "", *samples]


def results(name: str, settings: Sequence[str], only: str, folder: Path) -> Iterator[Result]:
    """Quantize with every contestant and measure."""
    if "recipes" in settings:
        yield from _measured(name, "recipe", {by: (recipe_makes, by) for by in RECIPES if only in by}, folder)
    for key in settings:
        if key == "recipes":
            continue
        setting = SETTINGS[key]
        contestants: Mapping[str, tuple[Any, ...]] = {
            **{f"onnxq {by}": (we_make, by, method, False) for by, method in OURS.items()},
            "onnxq gptq, all": (we_make, "gptq", OURS["gptq"], True),
            **{f"onnxq {by}": (table_makes, weights) for by, weights in TABLES.get(key, {}).items()},
            **{f"onnxruntime {by}": (onnxruntime_makes, by) for by in ONNXRUNTIME},
        }
        chosen = {
            by: how
            for by, how in contestants.items()
            if only in by and (how[0] is not onnxruntime_makes or setting.bits in (4, 8))
        }
        yield from _measured(name, key, chosen, folder)


def _measured(name: str, key: str, contestants: Mapping[str, tuple[Any, ...]], folder: Path) -> Iterator[Result]:
    """Quantize with contestants at one setting; models whose text is shown stay in the folder."""
    for by, (make, *how) in contestants.items():
        path = folder / f"{key}-{by.replace(' ', '-').replace(',', '')}.onnx"
        made, cost = isolated(make, name, path, SETTINGS.get(key), folder / STATISTICS, *how)
        score = made if isinstance(made, Failure) else isolated(perplexity, name, path)[0]
        size = megabytes(path) if path.is_file() else 0.0
        yield Result(setting=key, by=by, perplexity=score, megabytes=size, cost=cost)
        if key not in ("4x32", "recipe") and path.is_file():
            path.unlink()


def perplexity(name: str, path: Path) -> float:
    """The zoo's figure for a model file, one thread, as served."""
    zoo = models.load(name)
    assert zoo.metric is not None
    return zoo.metric.compute(open_session(path).run)


def megabytes(path: Path) -> float:
    """Size of a model file and its weights."""
    beside = {entry.location for entry in external_tensors(ir.load(path))}
    return (path.stat().st_size + sum((path.parent / str(other)).stat().st_size for other in beside)) / 1e6


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Yield the constants that lie in files of their own."""
    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            yield value.const_value


def written(name: str, original: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield what the float model, recipes, and 4 bits in blocks of 32 write after the same words."""
    for path in (original, *sorted(folder.glob("recipe-*.onnx")), *sorted(folder.glob("4x32-*.onnx"))):
        text, _ = isolated(continued, name, path)
        by = "float" if path == original else path.stem.replace("-", " ")
        yield by, text.text if isinstance(text, Failure) else " ".join(text.split())


def continued(name: str, path: Path, count: int = 24) -> str:
    """The prompt and the ``count`` tokens that a model finds likeliest, one after the other."""
    from importlib import import_module

    tokenizer = import_module(f"models.{name}").tokenizer()
    session = open_session(path)
    ids = tokenizer.encode(PROMPTS[name]).ids
    for _ in range(count):
        feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        ids.append(int(session.run(feeds)["logits"][0, -1].argmax()))
    return str(tokenizer.decode(ids))


if __name__ == "__main__":
    sys.exit(main())
