"""``python -m models list`` and ``python -m models fetch NAME|all``."""

import argparse
import sys

import models
from models.errors import ZooError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 1 a model could not be had, 2 usage)."""
    parser = argparse.ArgumentParser(prog="python -m models", description="The zoo of real models.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="print every model's name and what it is")
    fetch = commands.add_parser("fetch", help="fetch models into the cache and print where they lie")
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a model's name, or 'all'")
    options = parser.parse_args(arguments)
    try:
        if options.command == "list":
            for entry in models.entries().values():
                print(f"{entry.name:26} {entry.summary}")
        else:
            for name in models.names() if options.names == ["all"] else options.names:
                print(f"{name:26} {models.load(name).path}")
    except ZooError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
