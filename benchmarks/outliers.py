"""Planted outliers: a decoder whose activations have a few features 20 to 60 times larger, and what 8 bits make of it.

python -m benchmarks.outliers [--models novel] [--markdown docs/benchmarks.md]

Large language models grow such features by themselves (Dettmers et al. 2022); small ones do not. Here they are planted
by a rewrite that leaves the function as it is: a norm's gamma is multiplied, and the rows of all weights that read it
are divided, by the same factor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxq
from onnxq.runtime.session import open_session

import models
from benchmarks.measure import Failure, environment, isolated, write_section

SECTION = "outliers"
FACTORS = {0.13: 20.0, 0.31: 60.0, 0.58: 30.0, 0.83: 45.0}
"""Places among the features, as shares of their number, and how much larger these get."""
NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
SCORES = ["/lm_head/MatMul", "Gather"]
"""Left in float, as the papers leave embedding and scores."""
WAYS: dict[str, dict[str, Any]] = {
    "absmax-int8": {"recipe": "absmax-int8"},
    "zeropoint-int8": {"recipe": "zeropoint-int8"},
    "int8-dynamic (one scale a tensor)": {"recipe": "int8-dynamic", "placement": "everywhere"},
    "int8-dynamic, smoothquant": {"recipe": "int8-dynamic", "placement": "everywhere", "equalize": ["smoothquant"]},
    "int8, static": {"recipe": "int8", "placement": "everywhere"},
    "smoothquant-w8a8, static": {"recipe": "smoothquant-w8a8", "placement": "everywhere"},
    "llm-int8": {"recipe": "llm-int8"},
    "llm-int8 without outliers": {"recipe": "llm-int8", "activations": "uint8,symmetric,per-token"},
}
HEADER = ("features", "by", "perplexity", "of float's", "MB", "features in float", "time / float's")
LEGEND = """\
- *planted*: in every layer four features of the inputs of attention and of the feed-forward part are 20 to 60 times
  larger, the model computes the same. Embedding and scores stay in float; everything else is 8-bit weights and
  activations, ranges found at run time but in the rows *static*, as served. **of float's**: perplexity / that of the
  float model. **MB**: of the file. **features in float**: columns of activations that are multiplied in float, of all
  that the products read. **time / float's**: a window of tokens, one thread; below 1 is faster."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it into a page if asked to; returns the exit code."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{SECTION}", description=__doc__)
    parser.add_argument("--models", default="novel", help="language models of the zoo, separated by commas")
    parser.add_argument("--markdown", type=Path, help="page in which to write the tables, in their own section")
    options = parser.parse_args(arguments)
    where = environment(("onnxq", "onnxruntime"))
    for name in options.models.split(","):
        lines = [f"## Planted outliers: {name}", "", f"{where.date}, {where.processor}, one thread.", ""]
        lines += [f"| {' | '.join(HEADER)} |", f"|---|---|{'---:|' * (len(HEADER) - 2)}"]
        for row in rows(name):
            print(row, file=sys.stderr, flush=True)
            lines.append(row)
        text = "\n".join([*lines, "", LEGEND])
        print(text)
        if options.markdown is not None:
            write_section(options.markdown, SECTION, text, part=name)
    return 0


def rows(name: str) -> Iterator[str]:
    """Yield one model's rows."""
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        planted = Path(folder) / "planted.onnx"
        _, _ = isolated(write_planted, name, planted)
        base = None
        for which, path in (("as trained", models.load(name).path), ("planted", planted)):
            for by in ("float", *WAYS):
                found, _ = isolated(judged, name, str(path), by)
                if isinstance(found, Failure):
                    yield f"| {which} | {by} | {found.text} | - | - | - | - |"
                    continue
                perplexity, size, apart, ratio = found
                base = base or perplexity
                share = f"{perplexity:.2f} | {perplexity / base:.3f} | {size / 1e6:.1f} | {apart} | {ratio:.2f}"
                yield f"| {which} | {by} | {share} |"


def write_planted(name: str, path: Path) -> None:
    """Write the model of the zoo with outliers planted."""
    model = ir.load(models.load(name).path)
    plant(model)
    ir.save(model, path, external_data=f"{path.name}.data")


def plant(model: ir.Model) -> None:
    """Make some features of every layer's inputs larger, by FACTORS; the model computes the same."""
    weights = model.graph.initializers
    layers = sum(name.endswith("input_layernorm.weight") for name in weights)
    for layer in range(layers):
        for norm, readers in NORMS.items():
            gamma = f"layers.{layer}.{norm}.weight"
            factor = np.ones(int(np.prod(weights[gamma].shape.numpy())), np.float32)  # type: ignore[union-attr]
            for place, times in FACTORS.items():
                factor[int(place * factor.size)] = times
            _scale(weights[gamma], factor)
            for reader in readers:
                _scale(weights[f"layers.{layer}.{reader}.weight"], 1 / factor[:, None])


def _scale(value: ir.Value, factor: np.ndarray) -> None:
    assert value.const_value is not None
    value.const_value = ir.tensor((value.const_value.numpy() * factor).astype(np.float32), name=value.name)


def judged(name: str, path: str, by: str) -> tuple[float, int, str, float]:
    """Return perplexity, bytes, features in float of all, and time as a share of float's."""
    from onnxq.runtime.timing import time_interleaved

    zoo = models.load(name)
    assert zoo.metric is not None
    original = open_session(Path(path))
    feeds = next(iter(zoo.evaluation()))
    window = {key: array[:1] for key, array in feeds.items()}
    if by == "float":
        return zoo.metric.compute(original.run), _size(Path(path)), "-", 1.0
    with tempfile.TemporaryDirectory(prefix="onnxq-benchmark-") as folder:
        output = Path(folder) / "model.onnx"
        report = onnxq.quantize(
            Path(path), output, calibration=zoo.calibration, check=False, guard=False, keep=SCORES, **WAYS[by]
        )
        session = open_session(output)
        best = time_interleaved([original, session], window)
        apart = [each.in_float for each in report.plan.tensors.values() if each.name.endswith("@dynamic")]
        count = sum(len(each.indices) for each in apart if each is not None)
        return zoo.metric.compute(session.run), _size(output), str(count or "-"), best.best_ms(1) / best.best_ms(0)


def _size(path: Path) -> int:
    beside = [
        path.with_name(f"{path.name}.data"),
        path.with_name("weights.data"),
        *path.parent.glob(f"{path.stem}.*.data"),
    ]
    return path.stat().st_size + sum(other.stat().st_size for other in dict.fromkeys(beside) if other.is_file())


if __name__ == "__main__":
    sys.exit(main())
