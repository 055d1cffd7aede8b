"""Rules that keep the code easy to find one's way in."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
