"""Jane Austen's six novels, in the public domain, as Debian's package r-cran-janeaustenr (J. Silge, MIT) brings them.

The package holds them as R stores data: one compressed object a novel, a character vector of lines (R Internals,
section "Serialization Formats"; the lazy-load database puts a length of four bytes before each zlib stream).
"""

import struct
import zlib
from functools import cache

from models.debian import Deb, fetch_deb
from models.errors import ZooError

_MEMBER = "./usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
AUSTEN = Deb(
    package="r-cran-janeaustenr",
    version="1.0.0-1",
    sha256="df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
    members=(_MEMBER,),
)
NOVELS = (
    "Emma",
    "Mansfield Park",
    "Northanger Abbey",
    "Persuasion",
    "Pride and Prejudice",
    "Sense and Sensibility",
)
"""In the order of the package, which is that of the alphabet."""
_CHARACTER_VECTOR = 16


@cache
def novel(title: str) -> str:
    """The text of one novel: paragraphs on one line each, an empty line between them.

    Raises:
        ZooError: the package cannot be fetched.
    """
    fetch_deb(AUSTEN)
    return _paragraphs(_lines(AUSTEN.file(_MEMBER).read_bytes(), NOVELS.index(title)))


def _lines(database: bytes, number: int) -> list[str]:
    """The character vector that is object ``number`` of a lazy-load database."""
    start = 0
    for _ in range(number):
        start += _stored(database, start)[1]
    serialized = _stored(database, start)[0]
    if serialized[:2] != b"X\n":
        raise ZooError("the novels are not stored as XDR")
    at = 14  # format, version of the format, writer's and oldest reader's version of R
    if struct.unpack_from(">i", serialized, 2)[0] == 3:
        at += 4 + struct.unpack_from(">i", serialized, at)[0]  # version 3 names the encoding
    kind, count = struct.unpack_from(">ii", serialized, at)
    if kind & 255 != _CHARACTER_VECTOR:
        raise ZooError("the novels are not stored as lines")
    at, lines = at + 8, []
    for _ in range(count):
        length = max(0, struct.unpack_from(">i", serialized, at + 4)[0])
        lines.append(serialized[at + 8 : at + 8 + length].decode("utf-8"))
        at += 8 + length
    return lines


def _stored(database: bytes, start: int) -> tuple[bytes, int]:
    """One object, and how many bytes it takes."""
    stream = zlib.decompressobj()
    content = stream.decompress(database[start + 4 :])
    return content, len(database) - start - len(stream.unused_data)


def _paragraphs(lines: list[str]) -> str:
    return "\n\n".join(" ".join(part.split()) for part in "\n".join(lines).split("\n\n") if part.strip())
