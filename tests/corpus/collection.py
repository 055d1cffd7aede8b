"""All cases by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.corpus.cases import Case, node_cases, repository_cases, zoo_cases

GROUPS = ("backend", "zoo", "tests")


def collect(groups: Sequence[str], harvested: Path) -> dict[str, Case]:
    """Return the cases of the groups named, by name; `harvested` is the folder of the graphs of the tests."""
    return {case.name: case for group in groups for case in _cases(group, harvested)}


def _cases(group: str, harvested: Path) -> Iterator[Case]:
    match group:
        case "backend":
            yield from node_cases()
        case "zoo":
            yield from zoo_cases()
        case "tests":
            yield from repository_cases(harvested)
