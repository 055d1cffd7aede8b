"""Fetching from Debian: a package of the archive -> the few files of it that a model's data are made from.

Like `fetch.py`, for the texts that no wheel has: `apt-get download` (which needs no root and installs nothing), sha256
checked, only the named members kept.
"""

import io
import lzma
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from models.errors import ZooError
from models.fetch import atomic_file, cache_folder, check, scratch_folder

_MAGIC = b"!<arch>\n"
_HEADER = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Deb:
    """A pinned Debian package and the members wanted of it, as paths that begin with `./`."""

    package: str
    version: str
    sha256: str
    members: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where what was taken out lies."""
        return cache_folder() / f"{self.package}-{self.version}-{self.sha256[:12]}"

    def file(self, member: str) -> Path:
        """Where ``member`` lies once fetched."""
        return self.folder / PurePosixPath(member).name


def fetch_deb(deb: Deb) -> Path:
    """The folder holding ``deb.members``, downloading the package if one of them is missing.

    Raises:
        ZooError: apt-get is missing or failed, the file is not the pinned one, or a member is missing.
    """
    if not all(deb.file(member).is_file() for member in deb.members):
        with scratch_folder() as scratch:
            archive = _download(deb, scratch)
            check(archive, deb.sha256)
            with tarfile.open(fileobj=io.BytesIO(_data(archive))) as contents:
                for member in deb.members:
                    _take(contents, member, deb.file(member))
    return deb.folder


def _download(deb: Deb, into: Path) -> Path:
    wanted = f"{deb.package}={deb.version}"
    try:
        result = subprocess.run(
            ["apt-get", "download", "-q", wanted], cwd=into, capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ZooError(f"cannot download {wanted}: {error}. This text comes as a Debian package.") from error
    files = sorted(into.glob("*.deb"))
    if result.returncode != 0 or len(files) != 1:
        lines = [line for line in result.stderr.splitlines() if line.startswith("E:")] or ["no file came"]
        raise ZooError(f"cannot download {wanted}: {lines[-1]}. Run `apt-get update` first, or check the registry.")
    return files[0]


def _data(archive: Path) -> bytes:
    """The tar archive of the package's files, unpacked. A .deb is an `ar` archive (deb(5), ar(5))."""
    content = archive.read_bytes()
    if not content.startswith(_MAGIC):
        raise ZooError(f"{archive.name} is not a Debian package")
    start = len(_MAGIC)
    while start + _HEADER <= len(content):
        header = content[start : start + _HEADER]
        name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
        start += _HEADER
        if name == "data.tar.xz":
            return lzma.decompress(content[start : start + size])
        start += size + size % 2
    raise ZooError(f"{archive.name} holds no data.tar.xz")


def _take(contents: tarfile.TarFile, member: str, target: Path) -> None:
    try:
        source = contents.extractfile(member)
    except KeyError:
        source = None
    if source is None:
        raise ZooError(f"the package holds no file {member!r}")
    with source, atomic_file(target) as temporary:
        temporary.write_bytes(source.read())
