"""SIGHUP: keys, models and upstreams of the configuration file, taken whole or not at all."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from server.config.check import parse
from server.config.problems import ConfigError
from server.config.settings import Settings
from server.systemd import notify
from server.telemetry.logs import cause

TAKEN = ("keys", "models", "upstreams")
log = structlog.get_logger("sluiceway")
Load = Callable[[], tuple[Settings, Mapping[str, str]]]
Apply = Callable[[Settings, Mapping[str, str]], Awaitable[None]]


def merged(running: Settings, written: Settings, environ: Mapping[str, str]) -> Settings:
    """Return what runs with the new keys, models and upstreams, checked as a file is.

    Raises:
        ConfigError: the combination is wrong, though the file by itself is not: say, it has dropped all keys and
            listens on a loopback address now, while this process goes on listening on another.

    """
    taken = {name: getattr(written, name) for name in TAKEN}
    return parse(running.model_copy(update=taken).model_dump(exclude_none=True), environ)


def left_out(running: Settings, written: Settings) -> list[str]:
    """Return the sections that have changed and take a restart."""
    return [
        name for name in Settings.model_fields if name not in TAKEN and getattr(running, name) != getattr(written, name)
    ]


class Reload:
    """Reads the file again whenever it is asked to, one time after the other. `run` is the task."""

    def __init__(self, running: Settings, load: Load, apply: Apply) -> None:
        self._running = running
        self._load = load
        self._apply = apply
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Reload soon; asking again before it has begun is asking once."""
        self._asked.set()

    async def run(self) -> None:
        """Reload for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", os.environ)
            status = await self._once()
            notify(f"READY=1\nSTATUS={status}", os.environ)

    async def _once(self) -> str:
        """Take the file, or leave everything as it is; return one line about it."""
        try:
            # In a thread: reading certificates takes longer than the gap between two tokens.
            written, environ = await asyncio.to_thread(self._load)
            settings = merged(self._running, written, environ)
            await self._apply(settings, environ)
        except ConfigError as error:
            problems = [str(problem) for problem in error.problems]
            log.error("reload rejected", problems=problems)
            return f"Reload rejected: {problems[0]}"
        except OSError as error:
            log.error("reload rejected", problems=[str(error)])
            return f"Reload rejected: {error}"
        except Exception as error:  # noqa: BLE001 — a bug of ours here must not deafen the process to the next SIGHUP
            log.error("reload failed", **cause(error))
            return "Reload failed."
        restart = left_out(self._running, written)
        self._running = settings
        log.info("reloaded", keys=len(settings.keys), models=len(settings.models), upstreams=len(settings.upstreams))
        if restart:
            log.warning("changed, but only a restart takes it", sections=restart)
        return "Running."
