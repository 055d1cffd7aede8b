"""The corpus as a command: every graph through every format, and a table of what came of it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from tests.corpus.collection import GROUPS, collect
from tests.corpus.formats import FORMATS
from tests.corpus.harvest import harvest

KINDS = ("quantized", "coarse", "kept", "refused", "unserved", "failed")


class Lane(threading.Thread):
    """Feeds one worker process; one that dies is started again and its case counts as failed."""

    def __init__(
        self, collection: list[str], cases: Queue[str], results: Queue[tuple[str, dict[str, Any]]], patience: float
    ) -> None:
        super().__init__(daemon=True)
        self.collection, self.cases, self.results, self.patience = collection, cases, results, patience
        self.process: subprocess.Popen[str] | None = None

    def run(self) -> None:
        while True:
            try:
                case = self.cases.get_nowait()
            except Empty:
                break
            self.results.put((case, self._judged(case)))
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait()

    def _judged(self, case: str) -> dict[str, Any]:
        if self.process is None:
            command = [sys.executable, "-m", "tests.corpus.worker", *self.collection]
            # Opsets newer than the last release are tried too.
            environment = {**os.environ, "ALLOW_RELEASED_ONNX_OPSET_ONLY": "0"}
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        watch = threading.Timer(self.patience, process.kill)
        watch.start()
        try:
            process.stdin.write(f"{case}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if line:
            return dict(json.loads(line)["results"])
        self.process = None
        return {"all": {"kind": "failed", "detail": f"the process died, exit code {process.wait()}"}}


def main() -> int:
    """Run the corpus; 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every group")
    parser.add_argument("--group", action="append", choices=sorted(GROUPS), default=[])
    parser.add_argument("--match", default="", help="cases whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="every n-th case only")
    parser.add_argument("--lanes", type=int, default=2, help="processes")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds that one case may take")
    parser.add_argument("--harvested", type=Path, default=Path(tempfile.gettempdir()) / "onnxq-harvest", help="folder")
    parser.add_argument("--out", type=Path, help="file for the outcomes, JSON lines")
    arguments = parser.parse_args()
    groups = sorted(GROUPS) if arguments.all or not arguments.group else arguments.group
    if "tests" in groups:
        harvest(arguments.harvested)
    group_of = {name: case.group for name, case in collect(groups, arguments.harvested).items()}
    names = [name for name in group_of if arguments.match in name][:: arguments.every]
    started = time.monotonic()
    todo: Queue[str] = Queue()
    for name in names:
        todo.put(name)
    done: Queue[tuple[str, dict[str, Any]]] = Queue()
    lanes = [Lane([str(arguments.harvested), *groups], todo, done, arguments.patience) for _ in range(arguments.lanes)]
    for lane in lanes:
        lane.start()
    outcomes: dict[str, dict[str, Any]] = {}
    out = arguments.out.open("w") if arguments.out else None
    for count in range(len(names)):
        case, results = done.get()
        outcomes[case] = results
        if out is not None:
            print(json.dumps({"case": case, "results": results}), file=out, flush=True)
        if count % 100 == 99:
            print(f"{count + 1} of {len(names)} after {time.monotonic() - started:.0f} s", file=sys.stderr)
    failed = show(outcomes, group_of)
    print(f"{len(names)} graphs in {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def show(outcomes: dict[str, dict[str, Any]], group_of: dict[str, str]) -> int:
    """Print the table of counts, the reasons for keeping, the refusals and the failures; return how many failed."""
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    refusals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    failures: list[str] = []
    for case, results in outcomes.items():
        for fmt, outcome in results.items():
            counts[group_of[case], fmt][outcome["kind"]] += 1
            reasons.update(outcome.get("reasons", {}))
            if outcome["kind"] == "refused":
                refusals[outcome["detail"][:160]] += 1
            if outcome["kind"] == "failed":
                failures.append(f"{case} [{fmt}] {outcome['detail']}")
    print(f"{'group':10}{'format':12}" + "".join(f"{kind:>11}" for kind in KINDS))
    order = [fmt.name for fmt in FORMATS] + ["all"]
    for (group, fmt), found in sorted(counts.items(), key=lambda entry: (entry[0][0], order.index(entry[0][1]))):
        print(f"{group:10}{fmt:12}" + "".join(f"{found[kind]:>11}" for kind in KINDS))
    print("\nnodes kept, by reason: " + ", ".join(f"{code} {count}" for code, count in reasons.most_common()))
    for text, count in refusals.most_common():
        print(f"refused {count} times: {text}")
    for failure in failures:
        print(f"FAILED {failure}")
    return len(failures)


if __name__ == "__main__":
    sys.exit(main())
