"""Every graph that this repository's tests make: a pytest plugin that keeps them, and the command that runs it.

python -m tests.corpus.harvest FOLDER
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = "ONNXQ_HARVEST"
_AT_MOST = 1 << 22  # bytes


def harvest(folder: Path) -> list[Path]:
    """Run the tests, and return the files of the graphs that they made; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.iterdir()):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.corpus.harvest", "tests"]
        command += ["--ignore=tests/corpus", "--ignore=tests/models", "--ignore=tests/fuzz"]
        root = Path(__file__).parents[2]
        environment = {**os.environ, FOLDER: str(folder.absolute()), "PYTHONPATH": str(root)}
        subprocess.run(command, check=False, cwd=root, env=environment, stdout=subprocess.DEVNULL)
    return sorted(folder.glob("*.onnx"))


def _kept(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return `make` so that it keeps the models it returns, where they are complete."""

    def keeping(*args: Any, **kwargs: Any) -> Any:
        model = make(*args, **kwargs)
        _keep(model)
        return model

    return keeping


def _keep(model: Any) -> None:
    import onnx
    from onnxq.errors import OnnxqError
    from onnxq.files.load import load
    from onnxq.graph.storage import to_proto

    try:
        data = to_proto(load(model)).SerializeToString(deterministic=True)
    except (OnnxqError, onnx.checker.ValidationError):
        return
    if len(data) <= _AT_MOST:
        name = hashlib.sha256(data).hexdigest()[:12]
        (Path(os.environ[FOLDER]) / f"{name}.onnx").write_bytes(data)


def pytest_configure() -> None:
    """Keep what tests make from text or with onnx.helper, before they import the functions."""
    if FOLDER not in os.environ:
        return
    import onnx.parser
    import onnxq.graph.text

    onnx.parser.parse_model = _kept(onnx.parser.parse_model)
    onnx.helper.make_model = _kept(onnx.helper.make_model)
    onnxq.graph.text.model_from_text = _kept(onnxq.graph.text.model_from_text)


if __name__ == "__main__":
    print(len(harvest(Path(sys.argv[1]))), "graphs")
