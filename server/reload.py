"""SIGHUP: take the keys, models and upstreams of the configuration file, all of them or none."""

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

RELOADABLE = ("keys", "models", "upstreams")  # the sections that a reload takes
log = structlog.get_logger("sluiceway")
Load = Callable[[], tuple[Settings, Mapping[str, str]]]
Apply = Callable[[Settings, Mapping[str, str]], Awaitable[None]]


def merged(running: Settings, written: Settings, environ: Mapping[str, str]) -> Settings:
    """Return the settings `running` with the keys, models and upstreams of the file, checked like a file.

    Raises:
        ConfigError: the combination is wrong although the file alone is right. For example, the file has no more keys
            and a loopback address to listen on, but this process still listens on another address.

    """
    sections = {name: getattr(written, name) for name in RELOADABLE}
    return parse(running.model_copy(update=sections).model_dump(exclude_none=True), environ)


def needing_restart(running: Settings, written: Settings) -> list[str]:
    """Return the sections that have changed and that only a restart takes."""
    fixed = [name for name in Settings.model_fields if name not in RELOADABLE]
    return [name for name in fixed if getattr(running, name) != getattr(written, name)]


class Reload:
    """Reads the file again when it is asked to, one reload after the other. `run` is the task."""

    def __init__(self, running: Settings, load: Load, apply: Apply) -> None:
        self._running = running
        self._load = load
        self._apply = apply
        self._requested = asyncio.Event()

    def ask(self) -> None:
        """Reload soon. Calls before a reload begins count as one."""
        self._requested.set()

    async def run(self) -> None:
        """Reload whenever `ask` is called, for ever."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", os.environ)
            status = await self._once()
            notify(f"READY=1\nSTATUS={status}", os.environ)

    async def _once(self) -> str:
        """Take the file, or leave everything as it is. Return the outcome in one line."""
        try:
            # In a thread, because reading certificates takes longer than the gap between two tokens.
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
        except Exception as error:  # noqa: BLE001 — after a bug of ours the next SIGHUP must still work
            log.error("reload failed", **cause(error))
            return "Reload failed."
        restart = needing_restart(self._running, written)
        self._running = settings
        if restart:
            log.warning("changed, but only a restart takes it", sections=restart)
        log.info("reloaded", keys=len(settings.keys), models=len(settings.models), upstreams=len(settings.upstreams))
        return "Running."
