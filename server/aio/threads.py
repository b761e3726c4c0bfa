"""Threads for calls that block: one thread for one call, or one for many calls in their order.

All of them are daemon threads. The interpreter waits at its end for the threads of an executor; it does not wait for
these, so a call that hangs does not keep the process alive.
"""

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")
Answer = Callable[[Any, Exception | None], None]  # called in the event loop with a result, or with an error


async def run_in_thread(function: Callable[[], Result], *, name: str, over: Callable[[], None] | None = None) -> Result:
    """Return what `function` returns in a thread of its own, or raise what it raises.

    The function sees the context variables of the caller. If it raises what must not or cannot reach the event loop
    (SystemExit, KeyboardInterrupt, StopIteration), that becomes a RuntimeError with its name. A thread cannot be
    stopped: if the caller is cancelled, the thread goes on, and its result is dropped. `over` is called in the event
    loop when the thread has ended, which may be much later.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    call = partial(contextvars.copy_context().run, function)

    def settle(result: Any, error: Exception | None) -> None:
        if over is not None:
            over()
        _settle(future, result, error)

    try:
        Thread(target=_call, args=(call, loop, settle), name=name, daemon=True).start()
    except RuntimeError:  # the system has no thread left
        if over is not None:
            over()
        raise
    return await future


class WorkerThread:
    """A thread that runs jobs one after the other, until `stop`. An executor takes four times the CPU per job."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Answer] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, job: Callable[[], Result]) -> Result:
        """Return what `job` returns in the thread, or raise what it raises."""
        future: asyncio.Future[Result] = self._loop.create_future()
        self.give(job, partial(_settle, future))
        return await future

    def give(self, job: Callable[[], Any], answer: Answer) -> None:
        """Run `job` in the thread, and call `answer` in the event loop with what it returns or raises."""
        self._jobs.put((job, answer))

    def stop(self) -> None:
        """End the thread after the jobs that it has been given. Blocks until then."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (task := self._jobs.get()) is not None:
            job, answer = task
            _call(job, self._loop, answer)
            del task, job, answer  # otherwise the thread would hold them until it is given the next job


def _call(function: Callable[[], Any], loop: asyncio.AbstractEventLoop, answer: Answer) -> None:
    """Call `function` in this thread, and have `answer` called in the event loop."""
    result: Any = None
    error: Exception | None = None
    try:
        result = function()
    except StopIteration as raised:  # no future takes it
        error = _renamed(raised)
    except Exception as raised:  # noqa: BLE001 — the caller gets it
        error = raised
    except BaseException as raised:  # noqa: BLE001 — it would end the thread silently, or in the event loop the gateway
        error = _renamed(raised)
    with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
        loop.call_soon_threadsafe(answer, result, error)
    del error  # its traceback knows this frame


def _renamed(raised: BaseException) -> RuntimeError:
    error = RuntimeError(type(raised).__name__)
    error.__cause__ = raised
    return error


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # the caller was cancelled
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
