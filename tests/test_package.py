"""What is shipped: the package `onnxq` and nothing else, and it works where the repository is not."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import onnx_ir as ir
import pytest
from onnxq import __version__
from onnxq.graph.text import model_from_text

ROOT = Path(__file__).parents[1]
NET = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[N,16] x) => (float[N,4] y)
<float[16,4] w, float[4] b>
{ y = Gemm (x, w, b) }
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    _run("-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return folder


def test_the_wheel_holds_the_package_only(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.name == f"onnxq-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        said = Parser().parsestr(wheel.read(metadata).decode())
    assert {name.partition("/")[0] for name in names} == {"onnxq", metadata.partition("/")[0]}
    assert "onnxq/py.typed" in names
    assert any(name.startswith("onnxq/passes/") for name in names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert {*said.get_all("Provides-Extra", [])} >= {"cpu", "gpu", "dev"}
    needed = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith("onnxruntime") for line in needed)  # which of the two is the user's choice


def test_the_sdist_holds_the_package_only(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        inside = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    files = {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert "onnxq" in inside
    assert inside - {"onnxq"} == files


def test_the_installed_wheel_works_far_from_the_repository(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    _run("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel))
    ir.save(model_from_text(NET), work / "net.onnx")
    where = _run("-c", "import onnxq, onnxq.passes; print(onnxq.passes.__file__)", site=site, work=work)
    assert Path(where.strip()).is_relative_to(site)
    _run("-m", "onnxq", "quantize", "net.onnx", "--no-check", "--placement", "everywhere", site=site, work=work)
    assert (work / "net.int8.onnx").is_file()
    listed = _run("-m", "onnxq", "passes", site=site, work=work)
    assert "fold-constants" in listed  # entries are found by their folder in an installed copy too


def _run(*words: str, site: Path | None = None, work: Path | None = None) -> str:
    """Run Python; with `site`, its packages come before the installed ones."""
    environment = {**os.environ, **({} if site is None else {"PYTHONPATH": str(site)})}
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, cwd=work, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
