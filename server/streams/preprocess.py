"""`[preprocess]`: functions that see a request before it goes upstream, and may change it.

All of them run side by side, each on a copy of the request as its client sent it. What they return is laid over the
request, one after the other in the order of the configuration, so that for a field which two of them change the later
one counts. One that fails, is late or returns nonsense changes nothing: a request is not lost over it.
"""

import asyncio
import contextvars
import inspect
import pkgutil
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import structlog

from server.config.settings import Preprocess
from server.core.generation import Generation
from server.telemetry.logs import cause

FIXED = ("model", "stream", "stream_options", "n")  # the gateway has acted on these already
MAX_THREADS = 64  # of functions that are not async; one that hangs keeps its own
Check = Callable[[dict[str, Any]], None]
Body = dict[str, Any]
log = structlog.get_logger("sluiceway.preprocess")


class PreprocessError(ValueError):
    """A function that cannot be used: one sentence for whoever configured it."""


class Preprocessing:
    """The configured functions. `check` raises for a body that the gateway itself would refuse."""

    def __init__(self, settings: Preprocess, check: Check) -> None:
        self._functions = {name: imported(name, place) for name, place in settings.functions.items()}
        self._timeout = settings.timeout
        self._check = check
        self._threads = asyncio.Semaphore(MAX_THREADS)

    def __bool__(self) -> bool:
        return bool(self._functions)

    async def run(self, generation: Generation) -> Generation:
        """Return the request as the functions would have it, after `timeout` seconds at the latest."""
        sent = orjson.dumps(generation.body)
        tasks = {
            name: asyncio.create_task(self._call(function, orjson.loads(sent)), name=f"preprocess {name}")
            for name, function in self._functions.items()
        }
        try:
            await asyncio.wait(tasks.values(), timeout=self._timeout)
        finally:
            for task in tasks.values():
                task.cancel()
                task.add_done_callback(_seen)
        body = generation.body
        for name, task in tasks.items():
            body = body | self._changes(name, task, generation.body)
        return generation if body == generation.body else replace(generation, body=body)

    async def _call(self, function: Callable[[Body], Any], body: Body) -> Any:
        if inspect.iscoroutinefunction(function):
            try:
                return await function(body)
            except (SystemExit, KeyboardInterrupt) as error:  # would end the gateway
                raise RuntimeError(type(error).__name__) from error
        await self._threads.acquire()
        return await in_thread(lambda: function(body), self._threads.release)

    def _changes(self, name: str, task: asyncio.Task[Any], asked: Body) -> Body:
        """Return the fields that one function has changed; none where it made no sense."""
        if not task.done() or task.cancelled():
            log.warning("preprocessor late", preprocessor=name, timeout=self._timeout)
            return {}
        try:
            return self._checked(task.result(), asked)
        except Exception as error:  # noqa: BLE001 — foreign code: whatever it does, the request goes on without it
            log.warning("preprocessor failed", preprocessor=name, **cause(error))
            return {}

    def _checked(self, result: object, asked: Body) -> Body:
        if result is None:
            return {}
        if not isinstance(result, Mapping):
            raise TypeError("a preprocessor returns a dict of the fields to change, or None")
        changes = {key: value for key, value in result.items() if key not in asked or asked[key] != value}
        if not changes.keys().isdisjoint(FIXED):
            raise ValueError(f"a preprocessor may not change any of {', '.join(FIXED)}")
        orjson.dumps(changes)
        self._check(asked | changes)
        return changes


async def in_thread(work: Callable[[], Any], over: Callable[[], None]) -> Any:
    """Return what `work` returns, from a daemon thread: at the end nobody waits for one that hangs.

    `over` is called in the loop when the thread has ended, which after a cancellation may be much later.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        over()
        if not future.done():
            future.set_exception(error) if error is not None else future.set_result(value)

    def run() -> None:
        value, error = None, None
        try:
            value = context.run(work)
        except BaseException as raised:  # noqa: BLE001 — SystemExit and what no future takes, too
            error = raised if isinstance(raised, Exception) else RuntimeError(type(raised).__name__)
            error = RuntimeError("StopIteration") if isinstance(error, StopIteration) else error
        with suppress(RuntimeError):  # the gateway has gone meanwhile
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=run, name="preprocess", daemon=True).start()
    return await future


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()  # what comes after its time is of no interest


def imported(name: str, place: str) -> Callable[[Body], Any]:
    """Return the function at `place`, `"module:function"`. Raises PreprocessError."""
    try:
        function = pkgutil.resolve_name(place)
    except (Exception, SystemExit) as error:  # importing runs foreign code, which fails with anything
        words = f"The preprocessor {name!r} ({place}) cannot be loaded: {type(error).__name__}: {error}"
        raise PreprocessError(words) from error
    if not callable(function):
        raise PreprocessError(f"The preprocessor {name!r} ({place}) is not a function.")
    found: Callable[[Body], Any] = function
    return found
