"""`python -m sluiceway chat`, `tail` and `streams`: the terminal commands, without the gateway."""

import argparse
import sys

from sluiceway import __version__
from sluiceway.commands import add_commands


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the process's exit status."""
    parser = argparse.ArgumentParser(prog="sluiceway", description="Commands that use a running Sluiceway gateway.")
    parser.add_argument("--version", action="version", version=f"sluiceway-client {__version__}")
    add_commands(parser.add_subparsers(required=True, metavar="COMMAND"))
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status


if __name__ == "__main__":
    sys.exit(main())
