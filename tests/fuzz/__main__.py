"""Fuzzing as a command: random graphs, each through every format; the first failure is shrunk and printed."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.corpus.formats import FORMATS
from tests.corpus.judge import Judge
from tests.fuzz.graphs import graphs
from tests.fuzz.opener import Opener


def main() -> None:
    """Draw graphs until one fails or there are enough."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--last", type=Path, default=Path("/tmp/onnxq-fuzz.onnx"), help="where the graph in work is kept"
    )
    parser.add_argument("--go-on", action="store_true", help="print failures and go on, without shrinking")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    started = time.monotonic()
    opener = Opener()

    @seed(arguments.seed)
    @settings(
        max_examples=arguments.graphs,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate] if arguments.go_on else [Phase.generate, Phase.shrink],
    )
    @given(graphs())
    def run(drawn):  # type: ignore[no-untyped-def]
        model, feeds = drawn
        onnx.save(model, arguments.last)  # should the process die
        counts["graphs"] += 1
        if not opener.survives(arguments.last):
            onnx.save(model, arguments.last.with_name(f"aborts-{counts['graphs']}.onnx"))
            counts["onnxruntime aborts"] += 1
            return
        judge = Judge(model, feeds)
        assert not judge.complaint, judge.complaint
        if judge.unserved:
            print(judge.unserved[:300])
        for fmt in FORMATS:
            outcome = judge.judge(fmt)
            counts[f"{fmt.name}: {outcome.kind}"] += 1
            if outcome.kind == "refused":
                print(fmt.name, outcome.detail[:300])
                onnx.save(model, arguments.last.with_name(f"refused-{counts['graphs']}-{fmt.name}.onnx"))
            if outcome.kind == "failed" and arguments.go_on:
                path = arguments.last.with_name(f"fuzz-{counts['graphs']}-{fmt.name}.onnx")
                onnx.save(model, path)
                np.savez(path.with_suffix(".npz"), **feeds)
                print(f"{path} [{fmt.name}] {outcome.detail}", flush=True)
            else:
                assert outcome.kind != "failed", f"{fmt.name}: {outcome.detail}\n{onnx.printer.to_text(model)}"

    try:
        run()
    finally:
        print(f"{time.monotonic() - started:.0f} s, " + ", ".join(f"{key} {n}" for key, n in sorted(counts.items())))


if __name__ == "__main__":
    sys.exit(main())
