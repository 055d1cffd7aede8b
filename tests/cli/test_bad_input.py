"""What bad input gets: one clear message, the right exit code, no traceback, no half-written model, no lost old one."""

import functools
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnxq.cli import main
from tests.support.small_network import images

Output = pytest.CaptureFixture[str]
Refused = Callable[..., str]

QUANTIZE = ["quantize", "net.onnx", "--calibration", "data.npz"]


@pytest.fixture
def refused(folder: Path, capsys: Output) -> Refused:
    """A function that runs a command that must fail with `code`, and returns its only message."""

    def run(*words: str, code: int) -> str:
        (folder / "net.int8.onnx").write_bytes(b"the old model")
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert main([*words, "--force"]) == code
        seen = capsys.readouterr()
        assert seen.out == ""
        first, *others = seen.err.splitlines()
        assert all(line.startswith("help: ") for line in others)
        assert first.startswith("error: ")
        assert "internal error" not in first
        after = {
            path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "__pycache__" not in str(path)
        }
        assert after == before
        return first

    return run


def _truncated(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-500])


def _text(model: Path) -> None:
    model.write_text("hello, world, this is not a model")


def _pointer(model: Path) -> None:
    model.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")


def _archive(model: Path) -> None:
    np.savez(model.with_suffix(".npz"), image=images(1))
    model.with_suffix(".npz").rename(model)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "'net.onnx' does not exist"),
        (_truncated, "'net.onnx' is not an ONNX model, or it is"),
        (_text, "'net.onnx' is not an ONNX model"),
        (lambda model: model.write_bytes(b""), "'net.onnx' is empty"),
        (lambda model: (model.unlink(), model.mkdir()), "'net.onnx' is a folder"),
        (_pointer, "Git LFS pointer"),
        (_archive, "zip archive"),
    ],
)
@pytest.mark.parametrize("command", ["quantize", "plan", "inspect"])
def test_a_model_that_cannot_be_read(
    command: str, spoil: Callable[[Path], object], message: str, folder: Path, capsys: Output
) -> None:
    spoil(folder / "net.onnx")
    before = sorted(folder.iterdir())
    assert main([command, "net.onnx"]) == 3
    seen = capsys.readouterr()
    assert message in seen.err
    assert seen.err.startswith("error: ")
    assert (seen.out, seen.err.count("\n")) == ("", 1)
    assert sorted(folder.iterdir()) == before


def test_a_misspelt_model_is_told_its_neighbour(refused: Refused) -> None:
    assert "did you mean 'net.onnx'?" in refused("quantize", "ent.onnx", code=3)


def _with_nan() -> np.ndarray:
    data = images()
    data[5, 1, 2, 3] = np.nan
    return data


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"imgae": images()}, "the model has no input 'imgae'; did you mean 'image'?"),
        ({"image": images().astype(np.int64)}, "input 'image' is int64, the model takes float32"),
        ({"image": np.array(["a", "b"])}, "input 'image'"),
        ({"image": images()[:, :, 0, 0]}, "input 'image' has 2 axes"),
        ({"image": images()[:, :, :9]}, "axis 2 must be 16"),
        ({"image": _with_nan()}, "input 'image' holds 1 NaN"),
        ({"image": images()[:0]}, "holds no sample"),
        ({}, "input 'image' is missing"),
    ],
    ids=["name", "dtype", "text", "rank", "shape", "nan", "empty", "nothing"],
)
def test_calibration_data_that_does_not_fit(
    arrays: dict[str, np.ndarray], message: str, folder: Path, refused: Refused
) -> None:
    np.savez(folder / "data.npz", **arrays)
    text = refused(*QUANTIZE, code=3)
    assert message in text
    assert "data.npz" in text


def test_evaluation_data_that_does_not_fit(folder: Path, refused: Refused) -> None:
    np.savez(folder / "test.npz", image=_with_nan())
    assert "test.npz" in refused(*QUANTIZE, "--evaluation", "test.npz", code=3)


def test_a_damaged_data_file(folder: Path, refused: Refused) -> None:
    (folder / "data.npz").write_bytes((folder / "data.npz").read_bytes()[:3000])
    assert "data.npz" in refused(*QUANTIZE, code=3)


def test_a_missing_data_file_is_told_its_neighbour(refused: Refused) -> None:
    assert "did you mean 'data.npz'?" in refused("quantize", "net.onnx", "--calibration", "date.npz", code=3)


SOURCES = """
import os, signal, sys
import numpy as np

def broken():
    raise ValueError("the disk of samples is gone")

def empty():
    return []

def interrupted():
    yield {"image": np.ones((2, 3, 16, 16), np.float32)}
    os.kill(os.getpid(), signal.SIGINT)
    yield {"image": np.ones((2, 3, 16, 16), np.float32)}
"""


@pytest.fixture
def sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of calibration functions in the working folder."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "samples_for_tests.py").write_text(SOURCES)
    yield "samples_for_tests"
    sys.modules.pop("samples_for_tests", None)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("brokn", "has no 'brokn'; did you mean 'broken'?"),
        ("broken", "the disk of samples is gone"),
        ("empty", "holds no sample"),
    ],
)
def test_a_data_function_that_fails(function: str, message: str, sources: str, refused: Refused) -> None:
    assert message in refused("quantize", "net.onnx", "--calibration", f"{sources}:{function}", code=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep", "Sofmax"], "'Sofmax'; did you mean 'Softmax'?"),
        (["--keep", "cnv"], "'cnv'; did you mean 'conv'?"),
        (["--keep", "/head/*"], "no node is called '/head/*'"),
        (["--calibrator", "minmx"], "unknown calibrator 'minmx'; did you mean 'minmax'?"),
        (["--calibrator", "percentle"], "did you mean 'percentile'?"),
        (["--calibrator", "percentile:percentil=99"], "has no option 'percentil'; did you mean 'percentile'?"),
        (["--calibrator", "percentile:percentile=200"], "not 200"),
        (["--equalize", "smothquant"], "unknown equalizer 'smothquant'; did you mean 'smoothquant'?"),
        (["--equalize", "smoothquant:alpa=1"], "has no option 'alpa'; did you mean 'alpha'?"),
        (["--equalize", "absorb-bias", "--equalize", "cross-layer"], "'cross-layer' must come before 'absorb-bias'"),
        (["--format", "qqd"], "'qqd'; did you mean 'qdq'?"),
        (["--target", "cpuu"], "unknown target 'cpuu'; did you mean 'cpu'?"),
        (["--passes", "fold-constant"], "unknown pass 'fold-constant'; did you mean 'fold-constants'?"),
        (["--passes", "convert-version{opst=13}"], "did you mean 'opset'?"),
        (["--activations", "unit8"], "did you mean 'uint8'?"),
        (["--weights", "method=rtnn"], "unknown weight method 'rtnn'"),
        (["--placement", "fast"], "did you mean 'fastest'?"),
        (["--metric", "no_such_module:score"], "cannot import 'no_such_module'"),
        (["--dump-after", "fold-constant"], "did you mean 'fold-constants'?"),
        (["--samples", "0"], "samples"),
        (["--samples", "many"], "--samples"),
        (["--min-sqr", "3"], "--min-sqnr"),
        (["--recipe", "none.yaml"], "recipe 'none.yaml' does not exist"),
        (["--max-drop", "half"], "recipe: max_drop: 'half' is not an amount; write 0.005, or 0.5%"),
        (["--max-drop", "-1%"], "recipe: max_drop: an amount is a number of at least 0"),
        (["--max-ppl-increase", "2%"], "this model takes no token ids"),
        (["--max-ppl-increase", "2%", "--max-drop", "2%"], "give one of the two"),
        (["--search", "auto"], "a search needs a limit"),
        (["--search", "int9", "--min-sqnr", "20"], "search 'int9': unknown recipe 'int9'; did you mean 'int8'?"),
        (["--search", "weight-only:unit4", "--min-sqnr", "20"], "did you mean 'uint4'?"),
        (["--picture", "front.png"], "no search was asked for"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_a_request_that_cannot_be_met(options: list[str], message: str, refused: Refused) -> None:
    assert message in refused(*QUANTIZE, *options, code=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format: qdq\nrules: [\n", "line 3"),
        ("formt: qdq\n", "unknown key 'formt'; did you mean 'format'?"),
        ("rules: [{match: {op: Conv}, kep: float}]\n", "unknown key 'rules.0.kep'; did you mean 'keep'?"),
        ("calibrator: {nme: minmax}\n", "unknown key 'calibrator.nme'; did you mean 'name'?"),
        ("- format\n- qdq\n", "a recipe is a mapping"),
        ("rules: [{match: {op: Covn}, keep: float}]\n", "unknown operator type 'Covn'; did you mean 'Conv'?"),
    ],
)
def test_a_recipe_file_that_says_something_wrong(text: str, message: str, folder: Path, refused: Refused) -> None:
    (folder / "recipe.yaml").write_text(text)
    assert message in refused(*QUANTIZE, "--recipe", "recipe.yaml", code=2)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("no/such/folder.onnx", "output folder 'no/such' does not exist"),
        ("/proc/net.int8.onnx", "output folder '/proc' cannot be written"),  # read-only even for root
        (".", "is not a file"),
    ],
)
def test_an_output_that_cannot_be_written(output: str, message: str, refused: Refused) -> None:
    assert message in refused(*QUANTIZE, "-o", output, code=3)


def test_a_plan_has_no_such_node(refused: Refused, folder: Path, capsys: Output) -> None:
    assert main(["plan", "net.onnx", "--calibration", "data.npz", "--explain", "cnv"]) == 2
    assert "no node 'cnv'; did you mean 'conv'?" in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_model(folder: Path) -> None:
    """A limit on the size of files fails a write as a full disk does: in the middle."""
    (folder / "net.int8.onnx").write_bytes(b"the old model")
    before = sorted(folder.iterdir())
    done = _run(
        *QUANTIZE, "--no-check", "--force", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: 'net.int8.onnx' could not be saved: ")
    assert done.stderr.count("\n") == 1
    assert (folder / "net.int8.onnx").read_bytes() == b"the old model"
    assert sorted(folder.iterdir()) == before


def test_interrupting_leaves_the_old_model(folder: Path, sources: str) -> None:
    (folder / "net.int8.onnx").write_bytes(b"the old model")
    before = sorted(folder.iterdir())
    heeded = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    done = _run("quantize", "net.onnx", "--calibration", f"{sources}:interrupted", "--force", before=heeded)
    assert done.returncode == 130
    assert done.stderr == "\ninterrupted; no file was changed\n"
    assert (folder / "net.int8.onnx").read_bytes() == b"the old model"
    assert sorted(folder.iterdir()) == before


def _run(*words: str, before: Callable[[], object] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "onnxq", *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        preexec_fn=before,
    )
