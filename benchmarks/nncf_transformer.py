"""nncf's transformer mode (SmoothQuant within), for an interpreter that has nncf: MODEL DATA OUTPUT.

DATA is an .npz of arrays `INDEX/INPUT`, one index a batch. Called by `benchmarks.equalize --nncf PYTHON`.
"""

from __future__ import annotations

import sys

import numpy as np


def main() -> int:
    """Quantize and save."""
    import nncf
    import onnx

    source, data, output = sys.argv[1:]
    held = np.load(data)
    batches: dict[int, dict[str, np.ndarray]] = {}
    for key in held.files:
        index, _, name = key.partition("/")
        batches.setdefault(int(index), {})[name] = held[key]
    made = nncf.quantize(
        onnx.load(source),
        nncf.Dataset([batches[index] for index in sorted(batches)]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
    )
    onnx.save(made, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
