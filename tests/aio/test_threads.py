"""Calls in threads: results, errors that no event loop may get, and callers that are cancelled."""

import asyncio
import contextvars
import threading

import pytest

from server.aio import threads
from server.aio.threads import WorkerThread, run_in_thread

WAIT = 10.0  # seconds for a thread, on a busy machine
color = contextvars.ContextVar("color", default="none")


def raises(error: BaseException):
    def function() -> None:
        raise error

    return function


class Blocking:
    """A function that blocks until the test lets it go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(WAIT)
        return "done"


async def begun(blocking: Blocking) -> None:
    assert await asyncio.to_thread(blocking.begun.wait, WAIT)


# --- one call -------------------------------------------------------------------------------------------------------


async def test_a_result() -> None:
    """The function runs in a daemon thread of that name, and sees the caller's context."""
    color.set("red")

    def function() -> tuple[str, str, bool]:
        thread = threading.current_thread()
        seen = color.get()
        color.set("blue")
        return seen, thread.name, thread.daemon

    assert await run_in_thread(function, name="painter") == ("red", "painter", True)
    assert color.get() == "red"


async def test_an_error() -> None:
    """What the function raises is raised."""
    with pytest.raises(LookupError, match="nothing there"):
        await run_in_thread(raises(LookupError("nothing there")), name="test")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), StopIteration(), asyncio.CancelledError()])
async def test_what_must_not_reach_the_event_loop(error: BaseException) -> None:
    """It becomes a RuntimeError with its name, and its cause: neither the thread nor the gateway ends of it."""
    with pytest.raises(RuntimeError, match=f"^{type(error).__name__}$") as caught:
        await run_in_thread(raises(error), name="test")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("function", [lambda: 1, raises(LookupError()), raises(SystemExit())])
async def test_over_is_called_once(function) -> None:
    """It is called in the event loop, before the caller goes on, however the function ends."""
    calls = []
    await asyncio.gather(
        run_in_thread(function, name="test", over=lambda: calls.append(threading.current_thread())),
        return_exceptions=True,
    )
    assert calls == [threading.main_thread()]


async def test_over_is_called_if_there_is_no_thread(monkeypatch) -> None:
    """A system without threads left raises, and takes no place for ever."""

    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "Thread", NoThread)
    calls = []
    with pytest.raises(RuntimeError, match="new thread"):
        await run_in_thread(lambda: 1, name="test", over=lambda: calls.append(1))
    assert calls == [1]


@pytest.mark.parametrize("result", ["done", "fails"])
async def test_a_caller_that_is_cancelled(result) -> None:
    """It ends at once. The thread goes on; when it has ended, `over` is called, and its result is dropped."""
    blocking, over, complaints = Blocking(), asyncio.Event(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    def function() -> str:
        blocking()
        if result == "fails":
            raise LookupError("late")
        return result

    caller = asyncio.create_task(run_in_thread(function, name="test", over=over.set))
    await begun(blocking)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not over.is_set()
    blocking.go.set()
    async with asyncio.timeout(WAIT):
        await over.wait()
    assert complaints == []


def test_an_event_loop_that_has_closed() -> None:
    """A thread that ends later than the event loop ends quietly."""
    blocking, errors = Blocking(), []
    hook, threading.excepthook = threading.excepthook, errors.append

    async def scenario() -> None:
        task = asyncio.create_task(run_in_thread(blocking, name="late"))
        await begun(blocking)
        task.cancel()

    try:
        asyncio.run(scenario())
        [thread] = [one for one in threading.enumerate() if one.name == "late"]
        blocking.go.set()
        thread.join(WAIT)
        assert not thread.is_alive()
    finally:
        threading.excepthook = hook
    assert errors == []


# --- many calls -----------------------------------------------------------------------------------------------------


async def test_jobs_run_in_their_order() -> None:
    """One thread runs all of them, and each caller gets its own result or error."""
    worker, order = WorkerThread("worker"), []

    def job(number: int) -> tuple[int, str]:
        order.append(number)
        if number == 3:
            raise LookupError("three")
        return number, threading.current_thread().name

    jobs = [worker.run(lambda number=number: job(number)) for number in range(5)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert order == [0, 1, 2, 3, 4]
    assert isinstance(results.pop(3), LookupError)
    assert results == [(number, "worker") for number in (0, 1, 2, 4)]
    worker.stop()


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration()])
async def test_a_job_that_would_end_the_thread(error) -> None:
    """Its caller gets a RuntimeError, and the next job runs."""
    worker = WorkerThread("worker")
    with pytest.raises(RuntimeError, match=type(error).__name__):
        await worker.run(raises(error))
    assert await worker.run(lambda: 1) == 1
    worker.stop()


async def test_answers_come_in_the_event_loop() -> None:
    """`give` calls back with a result or an error, in the order of the jobs."""
    worker, answers, both = WorkerThread("worker"), [], asyncio.Event()
    error = LookupError()

    def answer(result: object, raised: Exception | None) -> None:
        answers.append((result, raised, threading.current_thread()))
        if len(answers) == 2:
            both.set()

    worker.give(lambda: 1, answer)
    worker.give(raises(error), answer)
    async with asyncio.timeout(WAIT):
        await both.wait()
    assert answers == [(1, None, threading.main_thread()), (None, error, threading.main_thread())]
    worker.stop()


async def test_a_cancelled_caller_of_a_worker() -> None:
    """Its job runs to its end, its result is dropped, and `stop` waits for it."""
    worker, blocking, ran = WorkerThread("worker"), Blocking(), []
    first = asyncio.create_task(worker.run(blocking))
    second = asyncio.create_task(worker.run(lambda: ran.append(1)))
    await begun(blocking)
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    blocking.go.set()
    worker.stop()
    assert ran == [1]
