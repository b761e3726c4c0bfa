"""`sluiceway serve`: one process with one gateway."""

import asyncio
import ctypes
import gc
import os
import socket
import sys
from pathlib import Path

import uvloop

from server.app import Gateway
from server.config.check import load, parse
from server.config.finding import NothingToRunError, configuration_file, of_the_environment
from server.config.plugins import known_plugins
from server.config.problems import BAD_CONFIG, ConfigError
from server.config.settings import Settings
from server.core.errors import StoreError
from server.reload import Load
from server.streams.preprocess import PreprocessError
from server.systemd import passed_sockets, with_credentials
from server.telemetry.logs import configure
from server.tools.tool import ToolSetupError

FAILED = 1
# Seconds until a busy event loop gives the interpreter to another thread. Python's default is 5 ms, which a store's
# thread would wait for at every statement.
SWITCH_INTERVAL = 0.0005
# Allocations between two garbage collections. With Python's default of 700 they take a tenth of a paced token's time.
GC_THRESHOLD = (20_000, 20, 20)
# Bytes from which on glibc's malloc takes a block from the system, and gives it back when it is freed. By default it
# raises this to the largest block that was freed, up to 32 MB: then bodies of some MB leave holes in the heap.
LARGE_BLOCK = 1 << 20
# Free bytes at the end of the heap from which on it is made shorter.
FREE_END = 4 << 20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


def serve(named: Path | None, host: str | None, port: int | None) -> int:
    """Run a gateway until a signal; return the exit status. `host` and `port` override the configuration's.

    `named` is the configuration; None: the file in a usual place, or the upstream of OpenAI's variables.
    """
    config = configuration_file(named)

    def read() -> tuple[Settings, dict[str, str]]:
        environ = with_credentials(os.environ)
        if config is not None:
            return load(config, environ, host=host, port=port, **known_plugins()), environ
        listen = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        return parse({**of_the_environment(environ), "server": listen}, environ), environ

    try:
        settings, environ = read()
        if named is None:
            where = config or f"no file; OPENAI_API_KEY is set, and {settings.upstreams[0].base_url} is the upstream"
            print(f"sluiceway: configuration: {where}", file=sys.stderr)  # noqa: T201 — what this start depends on
        configure()
        _run(Gateway(settings, environ), read, passed_sockets())
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201 — the command's output
        return BAD_CONFIG
    except NothingToRunError as error:
        print(f"sluiceway: {error}", file=sys.stderr)  # noqa: T201
        return BAD_CONFIG
    except (OSError, StoreError, ToolSetupError, PreprocessError) as error:
        print(f"sluiceway: {error}", file=sys.stderr)  # noqa: T201 — one sentence instead of a traceback
        return FAILED
    return 0


def give_memory_back() -> None:
    """Let malloc give large blocks back when they are freed. It does nothing where the C library is not glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, FREE_END)


def _run(gateway: Gateway, read: Load, passed: list[socket.socket]) -> None:
    # Streams leave hardly any cycles. So collect seldom, and never look at the objects that the start has created.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    gc.enable()
    give_memory_back()
    sys.setswitchinterval(SWITCH_INTERVAL)
    uses_uvloop = gateway.settings.server.event_loop == "uvloop"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if uses_uvloop else asyncio.new_event_loop) as runner:
        runner.run(gateway.serve(read, passed))
        if gateway.toolbox.bounds.hanging:
            # The runner would wait for ever for a task of a tool that swallows its cancel, or that waits for a thread.
            # Everything else has ended and is closed.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
