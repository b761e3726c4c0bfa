"""The commands: `sluiceway serve`, `sluiceway check`, and those of a client."""

import argparse
import asyncio
import gc
import os
import socket
import sys
from pathlib import Path

import uvloop

from server import __version__
from server.app import RECOVERY, STORES, Gateway, plugin_names
from server.client.commands import add_commands
from server.config import Settings
from server.config_check import ConfigError, check, load
from server.core.errors import StoreError
from server.preprocess import PreprocessError, imported
from server.reload import Load
from server.systemd import passed_sockets, with_credentials
from server.telemetry.logs import configure
from server.tools.tool import ToolSetupError
from server.tools.toolbox import configured

FAILED = 1
SWITCH_INTERVAL = 0.0005  # seconds that a store's thread waits for a busy loop; the default is 5 ms a statement
GC_THRESHOLD = (20_000, 20, 20)  # allocations; the default of 700 costs a tenth of a paced token's time
BAD_CONFIG = 2


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
    serve.add_argument("--config", type=Path, required=True, help="TOML file")
    serve.add_argument("--host", help="listen here instead of [server] host")
    serve.add_argument("--port", type=int, help="listen here instead of [server] port")
    serve.set_defaults(run=_serve)
    checked = commands.add_parser("check", help="validate a configuration")
    checked.add_argument("--config", type=Path, required=True, help="TOML file")
    checked.set_defaults(run=_check)
    add_commands(commands)
    return parser


def _known() -> dict[str, list[str]]:
    return {"known_strategies": plugin_names(RECOVERY), "known_stores": plugin_names(STORES)}


def _check(options: argparse.Namespace) -> int:
    loaders = {("tools", "functions"): configured, ("preprocess",): imported}
    problems = check(options.config, with_credentials(os.environ), **_known(), loaders=loaders)
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201 — the command's output
    return BAD_CONFIG if any(not problem.warning for problem in problems) else 0


def _serve(options: argparse.Namespace) -> int:
    def read() -> tuple[Settings, dict[str, str]]:
        environ = with_credentials(os.environ)
        return load(options.config, environ, host=options.host, port=options.port, **_known()), environ

    try:
        settings, environ = read()
        configure()
        _run(Gateway(settings, environ), read, passed_sockets())
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return BAD_CONFIG
    except (OSError, StoreError, ToolSetupError, PreprocessError) as error:
        print(f"sluiceway: {error}", file=sys.stderr)  # noqa: T201 — one sentence instead of a traceback
        return FAILED
    return 0


def _run(gateway: Gateway, read: Load, passed: list[socket.socket]) -> None:
    # Streams allocate no cycles to speak of: look for them seldom, and never among what the start has made.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_INTERVAL)
    uses_uvloop = gateway.settings.server.event_loop == "uvloop"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uses_uvloop else asyncio.new_event_loop) as runner:
        runner.run(gateway.serve(read, passed))
