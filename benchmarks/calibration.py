"""What calibration costs in memory and time, beside onnxruntime's own: `python -m benchmarks.calibration [--quick]`.

Memory: peak of the whole process, each figure from a process of its own. Time: calibration and float inference of the
same samples in turns in one process, sessions opened included, and the median of their ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.calibration_cases import CALIBRATORS
from benchmarks.networks import plain, resnet50

Measured = dict[str, float]
THEIRS = ("minmax", "entropy", "percentile")


def case(*arguments: object) -> Measured | str:
    """Run one case in a fresh process; a failure is its last line."""
    command = [sys.executable, "-m", "benchmarks.calibration_cases", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"ended with {done.returncode}"
    result: Measured = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def memory(console: Console, network: Path, *, quick: bool) -> None:
    """Print peak memory over the number of samples."""
    ours, theirs = ((8, 24), (8,)) if quick else ((8, 64, 256), (8, 24))
    counts = sorted({*ours, *theirs})
    table = Table(title="peak memory in MB, 18 convolutions at 224x224", title_justify="left")
    table.add_column("")
    for count in counts:
        table.add_column(f"{count} samples", justify="right")

    def row(name: str, wanted: tuple[int, ...], *arguments: object) -> None:
        found = {count: case(*arguments[:1], network, count, *arguments[1:]) for count in wanted}
        table.add_row(name, *(_peak(found.get(count)) for count in counts))

    row("float inference", ours, "float")
    for calibrator in CALIBRATORS:
        row(f"onnxq {calibrator}", ours, "onnxq", calibrator)
    for calibrator in THEIRS:
        row(f"onnxruntime {calibrator}", theirs, "onnxruntime", calibrator)
    console.print(table)


def times(console: Console, network: Path, *, quick: bool) -> None:
    """Print the time of calibration beside that of float inference."""
    count, repeats = (8, 1) if quick else (48, 5)
    found = {
        "ResNet-50 shape": case("time-network", network, count, repeats),
        "minilm": case("time-zoo", "minilm", repeats),
        "ppocr-rec": case("time-zoo", "ppocr-rec", repeats),
    }
    table = Table(title="seconds, and calibration / float inference of the same samples", title_justify="left")
    columns = (
        ("float 1", "float, 1 thread"),
        ("float all", "all cores"),
        ("onnxq 1", "onnxq, 1 thread"),
        ("onnxq all", "all cores"),
        ("ratio onnxq 1/float 1", "1 thread / 1 thread"),
        ("ratio onnxq all/float 1", "all cores / 1 thread"),
        ("ratio onnxq all/float all", "all cores / all cores"),
        ("ratio processor onnxq all/processor float 1", "processor time / processor time"),
        *((f"search {name}", f"search {name}") for name in CALIBRATORS),
    )
    table.add_column("", no_wrap=True)
    for name in found:
        table.add_column(name, justify="right")
    for key, title in columns:
        table.add_row(title, *(f"{each[key]:.3f}" if isinstance(each, dict) else each for each in found.values()))
    console.print(table)

    theirs = Table(title="onnxruntime's calibration / its float inference on 1 thread", title_justify="left")
    theirs.add_column("", no_wrap=True)
    few = 4 if quick else 16  # it keeps every activation
    for name in ("ResNet-50 shape", "minilm", "ppocr-rec"):
        theirs.add_column(name, justify="right")
    for calibrator in THEIRS:
        rows = [case("time-onnxruntime", network, few, calibrator)]
        rows += [case("time-onnxruntime", name, few, calibrator) for name in ("minilm", "ppocr-rec")]
        theirs.add_row(calibrator, *(_ratio(each) for each in rows))
    console.print(theirs)


def _peak(found: Measured | str | None) -> str:
    if found is None:
        return ""
    return found if isinstance(found, str) else f"{found['peak_mb']:.0f}"


def _ratio(found: Measured | str) -> str:
    return found if isinstance(found, str) else f"{found['seconds'] / found['float 1']:.1f}"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples and repeats: to see that it works")
    parser.add_argument("--only", choices=("memory", "time"), help="one part")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "plain.onnx", Path(folder) / "resnet50.onnx"
        plain(small)
        resnet50(large)
        if options.only != "time":
            memory(console, small, quick=options.quick)
        if options.only != "memory":
            times(console, large, quick=options.quick)


if __name__ == "__main__":
    main()
