"""Tools that tests configure as `tool_examples:name`; a call leaves its mark in the file of `TOOL_MARKS`."""

import asyncio
import os
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, NoReturn

from pydantic import BaseModel, Field


class Place(BaseModel):
    name: str
    lat: float = 0.0


def mark(text: str) -> None:
    if path := os.environ.get("TOOL_MARKS"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


async def add(x: int, y: Annotated[int, Field(description="the second one")] = 1) -> int:
    """Add two numbers."""
    mark(f"add {x} {y}")
    return x + y


def slow_add(x: int, y: int) -> str:
    """Add two numbers in a thread."""
    assert threading.current_thread() is not threading.main_thread()
    time.sleep(0.01)
    return f"{x} + {y} = {x + y}"


def place(where: Place, tags: list[str] | None = None) -> dict[str, object]:
    """Tell where a place is."""
    return {"place": where, "tags": tags or []}


async def fail() -> NoReturn:
    """Fail."""
    mark("fail")
    raise LookupError("nothing there")


def fail_in_thread() -> NoReturn:
    """Fail in a thread."""
    raise LookupError("nothing there")


async def leave() -> NoReturn:
    """Try to end the process."""
    sys.exit(3)


def leave_in_thread() -> NoReturn:
    """Try to end the process from a thread."""
    sys.exit(3)


def stop_iteration() -> NoReturn:
    """Raise what no future takes."""
    raise StopIteration


async def cancel() -> NoReturn:
    """Cancel itself."""
    raise asyncio.CancelledError


async def hang() -> None:
    """Never return."""
    mark("hang")
    await asyncio.Event().wait()


async def hang_on() -> None:
    """Never return, also when it is cancelled."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if RELEASED.is_set():
                raise


def hang_in_thread() -> str:
    """Return when the test says so."""
    HANGING.release()
    RELEASED.wait(60)
    return "released"


RELEASED = threading.Event()
HANGING = threading.Semaphore(0)  # released by each call of `hang_in_thread`


async def huge() -> str:
    """Return a megabyte."""
    mark("huge")
    return "ü" * 500_000


def surrogate() -> str:
    """Return what UTF-8 cannot encode."""
    return "a\udc80b"


async def slowly(seconds: float) -> str:
    """Take a while."""
    mark(f"slowly {seconds}")
    await asyncio.sleep(seconds)
    return "done"


def by_position(x: int, /) -> int:
    """Cannot be called by name."""
    return x


NOT_A_FUNCTION = 3
