"""Writes the tables of docs/targets.md from what probes recorded; `--check` only tells whether they are up to date.

    python docs/generate_targets.py [--check]
    python docs/generate_targets.py --record     first prove everything here, and keep what was found

What is recorded is of this machine's processor and the installed onnxruntime: run it in each environment once.
"""

import datetime
import json
import os
import sys
from pathlib import Path

from onnxq.proofs.prove import reprove
from onnxq.targets.evidence import FILE, Evidence, evidence, newest_instructions
from onnxq.targets.faults import faults
from onnxq.targets.processor import this_processor
from onnxq.types.plain_data import plain

PAGE = Path(__file__).with_name("targets.md")
BEGIN, END = "<!-- made by docs/generate_targets.py: begin -->", "<!-- end -->"


def record() -> Evidence:
    """Prove the rows of this machine's target, try all faults, and keep it; returns what was found."""
    import onnxruntime

    proof, processor = reprove("cpu"), this_processor()
    found = Evidence(
        onnxruntime=onnxruntime.__version__,
        processor=newest_instructions(processor),
        target=processor.target,
        masked="ONNXQ_PROCESSOR" in os.environ,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        claims=len(proof.results),
        changed=tuple(sorted({f"{entry.op} {entry.form}" for entry in proof.changed})),
        faults=tuple(entry.fault for entry in proof.faults if entry.present and entry.how != "as declared, not tried"),
        absent=tuple(entry.fault for entry in proof.faults if not entry.present and entry.how == "tried"),
    )
    kept = sorted((*(entry for entry in evidence() if entry.key != found.key), found), key=lambda entry: entry.key)
    FILE.write_text(json.dumps([plain(entry) for entry in kept], indent=1) + "\n", encoding="utf-8")
    evidence.cache_clear()
    return found


def tables() -> str:
    """Return what stands between the two marks of the page."""
    entries = evidence()
    lines = ["| onnxruntime | processor | target | claims | do not hold | date |", "|---|---|---|---:|---|---|"]
    for entry in entries:
        changed = ", ".join(entry.changed) or "-"
        parts = entry.onnxruntime, _processor(entry), f"`{entry.target}`", str(entry.claims), changed, entry.date
        lines.append(f"| {' | '.join(parts)} |")
    versions = list(dict.fromkeys(entry.onnxruntime for entry in entries))
    lines += ["", f"| fault | {' | '.join(versions)} |", f"|---|{'---|' * len(versions)}"]
    for name, _ in faults.items():
        cells = tuple(_cell(name, [entry for entry in entries if entry.onnxruntime == version]) for version in versions)
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    lines += ["", "| fault | what goes wrong | plans | known from |", "|---|---|---|---|"]
    for name, fault in faults.items():
        ways = "; ".join(way.text for way in fault.instead)
        otherwise = "do nothing: it costs little" if fault.slight else "write no such nodes"
        does = ways or ("take another kernel, or float" if fault.is_avoided else otherwise)
        lines.append(f"| `{name}` | {fault.summary} | {does} | {fault.reported} |")
    return "\n".join(lines)


def _cell(name: str, entries: list[Evidence]) -> str:
    real = [entry for entry in entries if name in entry.faults]
    tried = [entry for entry in entries if name in (*entry.faults, *entry.absent)]
    if not tried:
        return "not tried"
    if not real:
        return "-"
    return "real" if len(real) == len(tried) else f"real ({', '.join(_processor(entry) for entry in real)})"


def _processor(entry: Evidence) -> str:
    return f"{entry.processor}{' (masked)' if entry.masked else ''}"


def page(text: str) -> str:
    """Return the page with its tables as they should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> int:
    """Write the page, or with --check compare; returns the exit code."""
    if "--record" in sys.argv[1:]:
        found = record()
        print(f"{found.claims} claims, {len(found.changed)} changed; faults: {', '.join(found.faults) or 'none'}")
    text = PAGE.read_text(encoding="utf-8")
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(text), encoding="utf-8")
        return 0
    if page(text) == text:
        return 0
    print("docs/targets.md is out of date; run: python docs/generate_targets.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
