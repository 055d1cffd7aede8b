"""What calibration costs in memory and time, beside onnxruntime's own.

    python -m benchmarks.calibration [--quick] [--only memory|time] [--markdown docs/benchmarks.md]

Memory: peak of the whole process, each figure from a process of its own. Time: calibration and float inference of the
same samples in turns in one process, sessions opened included, and the median of their ratios.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

from benchmarks.calibration_cases import CALIBRATORS
from benchmarks.measure import environment, write_section
from benchmarks.networks import plain, resnet50

Measured = dict[str, float]
SECTION = "calibration"
COUNTERS = ("numba", "numpy")  # with the extra `fast`, and without
THEIRS = ("minmax", "entropy", "percentile")
NAMES = {"1": "1 thread", "all": "all cores"}
RATIOS = {
    f"ratio {tool} {threads}/float {beside}": f"**{title}: {NAMES[threads]} / float on {NAMES[beside]}**"
    for tool, title in (("extremes", "minmax, moving-average"), ("onnxq", "percentile, entropy, mse"))
    for threads, beside in (("all", "1"), ("all", "all"), ("1", "1"))
}
COLUMNS = {
    "samples": "samples",
    "tensors": "tensors observed",
    "float 1": "float inference, 1 thread, s",
    "float all": "float inference, all cores, s",
    "extremes all": "minmax, moving-average: all cores, s",
    "onnxq all": "percentile, entropy, mse: all cores, s",
    **RATIOS,
    **{f"search {name}": f"ranges by {name}, s" for name in CALIBRATORS},
}


def case(*arguments: object, counter: str = "numba") -> Measured | str:
    """Run one case in a fresh process; a failure is its last line."""
    command = [sys.executable, "-m", "benchmarks.calibration_cases", counter, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return textwrap.shorten(lines[-1], 60, placeholder=" ...") if lines else f"ended with {done.returncode}"
    result: Measured = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def memory(network: Path, *, quick: bool) -> str:
    """Return the table of peak memory over the number of samples."""
    ours, theirs = ((8, 24), (8,)) if quick else ((8, 64, 256), (8, 24))
    counts = sorted({*ours, *theirs})
    rows: list[Sequence[str]] = []

    def row(title: str, wanted: tuple[int, ...], tool: str, *options: str, counter: str = "numpy") -> None:
        found = {count: case(tool, network, count, *options, counter=counter) for count in wanted}
        rows.append([title, *(_shown(found.get(count), "peak_mb") for count in counts)])

    row("float inference", ours, "float")
    for calibrator in CALIBRATORS:
        row(f"onnxq {calibrator}", ours, "onnxq", calibrator)
    row("onnxq mse, numba", ours, "onnxq", "mse", counter="numba")
    for calibrator in THEIRS:
        row(f"onnxruntime {calibrator}", theirs, "onnxruntime", calibrator)
    title = "Peak memory of the process in MB, 18 convolutions at 224x224 by number of samples:"
    return _table(title, ["", *map(str, counts)], rows)


def times(network: Path, *, quick: bool) -> str:
    """Return the tables of the time of calibration beside that of float inference."""
    count, often, repeats = (8, 1, 1) if quick else (128, 6, 1)
    names = ("ResNet-50 shape", "minilm", "ppocr-rec")
    cases = (("time-network", network, count, repeats), *(("time-zoo", name, often, repeats) for name in names[1:]))
    found = [case(*each, counter=counter) for each in cases for counter in COUNTERS]
    rows = [[title, *(_shown(each, key) for each in found)] for key, title in COLUMNS.items()]
    head = ["", *(f"{name}, {counter}" for name in names for counter in COUNTERS)]
    ours = _table("Time of calibration beside float inference of the same samples:", head, rows)

    few = 4 if quick else 16  # it keeps every activation
    rows = []
    for calibrator in THEIRS:
        ratios = [case("time-onnxruntime", each, few, calibrator) for each in (network, *names[1:])]
        rows.append([calibrator, *(_shown(each, "ratio") for each in ratios)])
    theirs = _table(
        f"onnxruntime's own calibration / float inference on 1 thread ({few} samples of the ResNet-50 shape):",
        ["", *names],
        rows,
    )
    return f"{ours}\n\n{theirs}"


def _shown(found: Measured | str | None, key: str) -> str:
    if found is None:
        return ""
    if isinstance(found, str):
        return found
    return f"{found[key]:.0f}" if found[key] >= 100 else f"{found[key]:.3g}"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join([title, "", *("| " + " | ".join(line) + " |" for line in lines)])


def main() -> None:
    """Print the tables, and write them into a page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples and repeats: to see that it works")
    parser.add_argument("--only", choices=("memory", "time"), help="one part")
    parser.add_argument("--markdown", type=Path, help="page in which to write the tables, in their own section")
    options = parser.parse_args()
    where = environment(("onnxq", "onnxruntime", "numpy", "numba"))
    versions = ", ".join(f"{name} {version}" for name, version in where.versions.items())
    parts = ["## Calibration", f"{where.date}, {where.processor} ({', '.join(where.features)}): {versions}."]
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "plain.onnx", Path(folder) / "resnet50.onnx"
        plain(small)
        resnet50(large)
        if options.only != "time":
            parts.append(memory(small, quick=options.quick))
        if options.only != "memory":
            parts.append(times(large, quick=options.quick))
    text = "\n\n".join(parts)
    print(text)
    if options.markdown is not None:
        write_section(options.markdown, SECTION, text)


if __name__ == "__main__":
    main()
