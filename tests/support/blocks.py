"""How long the event loop was blocked, in CPU time of its own thread: other processes and threads do not count.

CPU time depends on the machine. So it is compared with a fixed piece of work, which takes some 10 ms on a machine of
2024, and is measured beside the test.
"""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from server.cli.serve import GC_THRESHOLD

PIECE = orjson.dumps([{"role": "user", "content": str(n)} for n in range(50_000)])


class Blocks:
    """The longest turn of a task or callback. Times are in seconds of CPU."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.what = ""

    def note(self, seconds: float, handle: object) -> None:
        """Take one turn."""
        if seconds > self.longest:
            self.longest, self.what = seconds, repr(handle)[:600]


def unit() -> float:
    """Return how long this machine takes for a fixed piece of work: the best of five."""
    times = []
    for _ in range(5):
        started = time.thread_time()
        orjson.loads(PIECE)
        times.append(time.thread_time() - started)
    return min(times)


@contextmanager
def watched() -> Iterator[Blocks]:
    """Watch the event loop of this thread until the end of the block. It is asyncio's own, not uvloop."""
    blocks, thread, threshold = Blocks(), threading.get_ident(), gc.get_threshold()
    gc.collect()  # the collector as the gateway has it (cli/serve.py)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLD)
    handle: Any = asyncio.events.Handle
    run = handle._run  # noqa: SLF001 — every turn of a task or callback passes it

    def _run(self: object) -> None:
        if threading.get_ident() != thread:
            run(self)
            return
        started = time.thread_time()
        run(self)
        blocks.note(time.thread_time() - started, self)

    handle._run = _run  # noqa: SLF001
    try:
        yield blocks
    finally:
        handle._run = run  # noqa: SLF001
        gc.set_threshold(*threshold)
        gc.unfreeze()
