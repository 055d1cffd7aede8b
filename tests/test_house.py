"""Rules that keep the code easy to find one's way in."""

import ast
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 400


def _imported(path: Path) -> Iterator[str]:
    """Yield the full names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_tests_import_no_test_and_no_conftest() -> None:
    """What several tests use lies in `tests/support`."""
    for path in (ROOT / "tests").rglob("*.py"):
        for name in _imported(path):
            parts = name.split(".")
            if parts[0] == "tests":
                assert not any(part == "conftest" or part.startswith("test_") for part in parts), f"{path}: {name}"


def test_no_file_is_long() -> None:
    """A file holds one idea."""
    paths = (path for folder in ("onnxq", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_names_of_classes_are_unique() -> None:
    """A name that stands twice in the package means two things."""
    paths = (ROOT / "onnxq").rglob("*.py")
    found = (re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE) for path in paths)
    counts = Counter(itertools.chain.from_iterable(found))
    assert [name for name, count in counts.items() if count > 1] == []
