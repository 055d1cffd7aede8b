"""Damaged files as a command: each ends in a message and exit code 3, or in a valid model; the process never dies.

Files are quantized in batches by processes of their own, so that one that kills its process is known by name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from tests.damage.files import damaged

_BATCH = 50


def outcome(path: Path, out: Path, data: Path) -> str:
    """Quantize one file through the command line's own entry, and say what came of it."""
    import contextlib
    import io

    from onnxq.cli import main as cli

    out.unlink(missing_ok=True)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = cli(["quantize", str(path), "-o", str(out), "--calibration", str(data), "--no-check", "--force"])
        except SystemExit as exit_:
            code = exit_.code
    if code in (0, None):
        onnx.checker.check_model(str(out))
        return "valid"
    text = said.getvalue()
    if code == 70 or "Traceback" in text or "\x1b" in text or not text.strip():
        return f"failed: code {code}: {text[-300:]}"
    if out.exists():
        return f"failed: code {code}, and a file was written"
    return f"code {code}"


def work(folder: Path, names: list[str]) -> None:
    """Print one line of JSON for each file."""
    for name in names:
        try:
            found = outcome(folder / name, folder / "out.onnx", folder / "data.npz")
        except Exception as error:
            found = f"failed: {type(error).__name__}: {error}"
        print(json.dumps([name, found]), flush=True)


def run(count: int, folder: Path) -> dict[str, str]:
    """Damage `count` files in `folder` and return what came of each."""
    names = damaged(folder, count)
    results: dict[str, str] = {}
    while left := [name for name in names if name not in results]:
        batch = left[:_BATCH]
        command = [sys.executable, "-m", "tests.damage", "--folder", str(folder), *batch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith('["'))
        results |= found
        if len(found) < len(batch):
            results[batch[len(found)]] = f"failed: the process died, exit code {done.returncode}: {done.stderr[-300:]}"
    return results


def main() -> int:
    """Print the counts and the failures; 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.names:
        work(arguments.folder, arguments.names)
        return 0
    with tempfile.TemporaryDirectory(prefix="onnxq-damage-") as folder:
        results = run(arguments.files, Path(folder))
    failures = {name: found for name, found in results.items() if found.startswith("failed")}
    counts = Counter(found.partition(":")[0] for found in results.values())
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    for name, found in failures.items():
        print(name, found)
    return 1 if failures else 0


if __name__ == "__main__":
    np.seterr(all="ignore")
    sys.exit(main())
