"""`[preprocess]`: functions that see a request before it goes upstream, and may change it.

The functions run side by side, each on a copy of the request as its client sent it. Each returns the fields that it
changes. The changes are applied in the order of the configuration: if two functions change a field, the later one
counts. A function that fails, is late or returns nonsense changes nothing. The request goes on without it.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import orjson
import structlog

from server.aio.threads import run_in_thread
from server.config.plugins import LoadError, load_object
from server.config.settings import Preprocess
from server.core.generation import Generation
from server.telemetry.logs import cause

FIXED = ("model", "stream", "stream_options", "n")  # the gateway has already acted on these
MAX_THREADS = 64  # of functions that are not async; a function that hangs keeps its thread
Check = Callable[[dict[str, Any]], None]
Body = dict[str, Any]
log = structlog.get_logger("sluiceway.preprocess")


class PreprocessError(ValueError):
    """A function that cannot be used, in one sentence."""


class Preprocessing:
    """The configured functions. `check` raises for a body that the gateway itself would refuse."""

    def __init__(self, settings: Preprocess, check: Check) -> None:
        self._functions = {name: imported(name, place) for name, place in settings.functions.items()}
        self._timeout = settings.timeout
        self._check = check
        self._threads = asyncio.Semaphore(MAX_THREADS)
        self._running: set[asyncio.Task[Any]] = set()  # also those that were late, and have not ended yet

    def __bool__(self) -> bool:
        return bool(self._functions)

    async def run(self, generation: Generation) -> Generation:
        """Return the request with the functions' changes, after `timeout` seconds at the latest."""
        original = generation.kept.data
        tasks = {
            name: self._start(name, self._call(function, orjson.loads(original)))
            for name, function in self._functions.items()
        }
        try:
            await asyncio.wait(tasks.values(), timeout=self._timeout)
        finally:
            for task in tasks.values():
                task.cancel()
        sent: Body = orjson.loads(original)
        body = dict(sent)
        for name, task in tasks.items():
            body |= self._changes(name, task, sent)
        return generation if body == sent else replace(generation, body=body, changed=True)

    def _start(self, name: str, call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(call, name=f"preprocess {name}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(_retrieve)
        return task

    async def _call(self, function: Callable[[Body], Any], body: Body) -> Any:
        if inspect.iscoroutinefunction(function):
            try:
                return await function(body)
            except (SystemExit, KeyboardInterrupt) as error:  # would end the gateway
                raise RuntimeError(type(error).__name__) from error
        await self._threads.acquire()
        return await run_in_thread(lambda: function(body), name="preprocess", over=self._threads.release)

    def _changes(self, name: str, task: asyncio.Task[Any], original: Body) -> Body:
        """Return the fields that a function has changed, or none if it was late, failed or made no sense."""
        if not task.done() or task.cancelled():
            log.warning("preprocessor late", preprocessor=name, timeout=self._timeout)
            return {}
        try:
            return self._checked(task.result(), original)
        except Exception as error:  # noqa: BLE001 — foreign code: whatever it does, the request goes on without it
            log.warning("preprocessor failed", preprocessor=name, **cause(error))
            return {}

    def _checked(self, result: object, original: Body) -> Body:
        if result is None:
            return {}
        if not isinstance(result, Mapping):
            raise TypeError("a preprocessor returns a dict of the fields to change, or None")
        changes = {key: value for key, value in result.items() if key not in original or original[key] != value}
        if not changes.keys().isdisjoint(FIXED):
            raise ValueError(f"a preprocessor may not change any of {', '.join(FIXED)}")
        orjson.dumps(changes)
        self._check(original | changes)
        return changes


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # else the event loop complains about the error of a function that was late


def imported(name: str, place: str) -> Callable[[Body], Any]:
    """Return the function at `place`, `"module:function"`. Raises PreprocessError."""
    try:
        function = load_object(place)
    except LoadError as error:
        raise PreprocessError(f"The preprocessor {name!r} ({place}) cannot be loaded: {error}") from error
    if not callable(function):
        raise PreprocessError(f"The preprocessor {name!r} ({place}) is not a function.")
    preprocessor: Callable[[Body], Any] = function
    return preprocessor
