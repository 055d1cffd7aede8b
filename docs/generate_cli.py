"""Writes docs/cli.md from the commands themselves; `--check` only tells whether it is up to date.

python docs/generate_cli.py [--check]
"""

import sys
from pathlib import Path
from typing import Any

import typer.main
from onnxq.cli.app import make_app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Made by `python docs/generate_cli.py` from the commands themselves; do not edit.

Results go to stdout; progress, warnings and errors to stderr.

| exit code | means |
|---|---|
| 0 | done: a model was written, which is the float model where quantizing gains nothing |
| 1 | nothing was written: the result is worse than allowed, or nothing in the model can be quantized |
| 2 | a request that cannot be met: usage, recipe, a library that is not installed |
| 3 | a model or data that will not do, or a file that cannot be written |
| 70 | a fault of onnxq; `ONNXQ_DEBUG=1` shows where |
| 130 | interrupted |
| 141 | the reader of the output went away |
"""


def page() -> str:
    """Return what docs/cli.md should hold."""
    group: Any = typer.main.get_command(make_app())
    parts = [HEAD, *(_command(name, command) for name, command in group.commands.items())]
    return "\n".join(parts)


def _command(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = [parameter.metavar if parameter.required else f"[{parameter.metavar}]" for parameter in arguments]
    lines = [f"## onnxq {name}", "", f"    onnxq {' '.join([name, *usage, '[OPTIONS]'])}", "", str(command.help), ""]
    lines += [*(f"- `{argument.metavar}`: {argument.help}" for argument in arguments), *([""] if arguments else [])]
    panels: dict[str, list[str]] = {}
    for option in options:
        panels.setdefault(option.rich_help_panel or "", []).append(_option(option))
    for title, entries in panels.items():
        lines += [f"{title or 'Options'}:", "", *entries, ""]
    return "\n".join(lines)


def _option(option: Any) -> str:
    names = ", ".join((*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else f" {option.metavar}"
    default = f" Default: {option.default}." if option.default and not option.is_flag else ""
    return f"- `{names}{value}`: {option.help}{default}"


def main() -> int:
    """Write the page, or with --check compare; returns the exit code."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print("docs/cli.md is out of date; run: python docs/generate_cli.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
