"""Judges the cases named on standard input, one a line; one line of JSON for each format: a crash costs one case."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from tests.corpus.collection import collect
from tests.corpus.formats import FORMATS
from tests.corpus.judge import Judge, Outcome


def main(harvested: str, *groups: str) -> None:
    """Judge cases until the input ends; arguments as for `collect`."""
    out = os.fdopen(os.dup(1), "w")  # libraries print too
    os.dup2(2, 1)
    cases = collect(groups, Path(harvested))
    for line in sys.stdin:
        name = line.rstrip("\n")
        results: dict[str, dict[str, object]] = {}
        try:
            judge = Judge(*cases[name].make())
            results = {fmt.name: vars(judge.judge(fmt)) for fmt in FORMATS}
        except Exception:
            results["all"] = vars(Outcome(kind="failed", detail=f"the corpus itself: {traceback.format_exc(limit=-5)}"))
        print(json.dumps({"case": name, "results": results}), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
