"""One thread for calls that block. An executor does the same for four times the CPU, and a store asks a lot of it."""

import asyncio
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

Result = TypeVar("Result")


Answer = Callable[[Any, Exception | None], None]


class Worker:
    """A thread that runs what it is given, in order, until `stop`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: SimpleQueue[tuple[Callable[[], Any], Answer] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)  # an open store does not keep a process alive
        self._thread.start()

    async def run(self, job: Callable[[], Result]) -> Result:
        """Return what `job` returns in the thread, or raise what it raises."""
        done: asyncio.Future[Result] = self._loop.create_future()
        self.give(job, partial(_settle, done))
        return await done

    def give(self, job: Callable[[], Any], answer: Answer) -> None:
        """Have `answer` called in the loop with what `job` returns, or with what it raises."""
        self._jobs.put((job, answer))

    def stop(self) -> None:
        """End the thread after what it has been given."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (given := self._jobs.get()) is not None:
            job, answer = given
            try:
                result, error = job(), None
            except Exception as raised:  # noqa: BLE001 — whoever waits for the job gets it
                result, error = None, raised
            try:
                self._loop.call_soon_threadsafe(answer, result, error)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return


def _settle(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if done.done():  # who waited was cancelled
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)
