"""The command line: `sluiceway serve`, `init`, `check`, and the client commands.

Each command imports what it needs when it runs. Importing the whole gateway takes a second, which the client commands
do not need to wait for.
"""

import argparse
import gc
from pathlib import Path

from server import __version__
from sluiceway.commands import add_commands

PLACES = "by default ./sluiceway.toml, then /etc/sluiceway/sluiceway.toml, then the upstream of OPENAI_API_KEY"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the process's exit status."""
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sluiceway", description="A streaming gateway for large language models.")
    parser.add_argument("--version", action="version", version=f"sluiceway {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="run the gateway")
    serve.add_argument("--config", type=Path, metavar="FILE", help=f"TOML file; {PLACES}")
    serve.add_argument("--host", help="listen here instead of [server] host")
    serve.add_argument("--port", type=int, help="listen here instead of [server] port")
    serve.set_defaults(run=_serve)
    init = commands.add_parser("init", help="write a configuration to begin with")
    init.add_argument("file", type=Path, nargs="?", default=Path("sluiceway.toml"), metavar="FILE")
    init.set_defaults(run=_init)
    check = commands.add_parser("check", help="validate a configuration, and say what would run")
    check.add_argument("--config", type=Path, metavar="FILE", help=f"TOML file; {PLACES}")
    check.set_defaults(run=_check)
    add_commands(commands)
    return parser


def _serve(options: argparse.Namespace) -> int:
    # Imports leave no garbage, and looking for it takes a sixth of the start. `serve` enables the collector again.
    gc.disable()
    from server.cli.serve import serve  # noqa: PLC0415 — imported when it runs

    return serve(options.config, options.host, options.port)


def _init(options: argparse.Namespace) -> int:
    from server.cli.init import init  # noqa: PLC0415 — imported when it runs

    return init(options.file)


def _check(options: argparse.Namespace) -> int:
    from server.cli.check import check  # noqa: PLC0415 — imported when it runs

    return check(options.config)
