"""Replay a reproducer: `python -m onnxq.passes.replay FOLDER [FILE]` runs its pipeline; FILE gets the result."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from onnxq.errors import OnnxqError


def main(arguments: Sequence[str]) -> int:
    """Run the pipeline of a reproducer folder on its model; print a line for each pass, or how it fails.

    Returns:
        The exit code: 0, 2 for wrong arguments, or the error's own.
    """
    import onnx_ir as ir

    from onnxq.passes.manager import run_pipeline
    from onnxq.passes.reproducer import MODEL, PIPELINE, dump_model

    if len(arguments) not in (1, 2) or not (Path(arguments[0]) / PIPELINE).is_file():
        print(
            f"usage: python -m onnxq.passes.replay FOLDER [FILE]\nFOLDER holds {MODEL} and {PIPELINE}", file=sys.stderr
        )
        return 2
    folder = Path(arguments[0]).absolute()
    try:
        text = (folder / PIPELINE).read_text(encoding="utf-8")
        model, records = run_pipeline(ir.load(folder / MODEL), [text])
        for record in records:
            print(f"{record.name}: {record.nodes_before} -> {record.nodes_after} nodes, {record.seconds:.3f} s")
        if len(arguments) == 2:
            dump_model(model, Path(arguments[1]))
    except OnnxqError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
