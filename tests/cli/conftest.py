"""A working folder with a model and data."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnxq.graph.text import model_from_text
from tests.support.small_network import NET, images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `net.onnx` and `data.npz`, as working folder."""
    monkeypatch.chdir(tmp_path)
    ir.save(model_from_text(NET), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", image=images())
    return tmp_path
