"""The documentation is true: commands exist, examples run, the reference is current, every room is shown."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
import yaml
from onnxq.cli.app import make_app
from onnxq.types.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SETUP = (
    "pip install -e '.[cpu]' && onnxq quantize models/digits/model.onnx --format qdq "
    "--calibration models/digits/calibration.npz",
    "pip install -e '.[cpu,dev]' && pytest",
)

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_readme_gives_the_two_lines_that_are_all_the_set_up() -> None:
    lines = [line for block in _blocks(ROOT / "README.md", "sh") for line in block.splitlines()]
    assert lines == list(SETUP)


def test_the_reference_of_the_command_line_is_current() -> None:
    done = subprocess.run([sys.executable, "docs/generate_cli.py", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", list(typer.main.get_command(make_app()).commands))
def test_every_command_is_documented(name: str) -> None:
    assert f"\n## onnxq {name}\n" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


@pages
def test_commands_shown_are_understood(page: Path) -> None:
    """Each line is parsed by the real command, which is not run."""
    group = typer.main.get_command(make_app())
    for part in re.split(r"&&|\n", "\n".join(_blocks(page, "sh"))):
        program, *words = shlex.split(part.partition(" > ")[0]) or [""]
        if program == "onnxq":
            group.commands[words[0]].make_context(words[0], words[1:])


@pages
def test_examples_run(page: Path, tmp_path: Path) -> None:
    for file in ("model.onnx", "calibration.npz"):
        shutil.copy(ROOT / "models" / "digits" / file, tmp_path)
    program = "\n".join(_blocks(page, "python"))
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pages
def test_recipes_shown_are_recipes(page: Path) -> None:
    for block in _blocks(page, "yaml"):
        Recipe.parse(yaml.safe_load(block))


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), target


def test_the_architecture_shows_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for entry in (ROOT / "onnxq").iterdir():
        if entry.is_dir() and (entry / "__init__.py").is_file():
            assert f"\n      {entry.name}/ " in text
        elif entry.suffix == ".py":
            assert f"\n      {entry.name} " in text
