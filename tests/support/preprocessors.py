"""Preprocessors that tests configure as `preprocessors:name`."""

import asyncio
import contextlib
import sys
import threading
import time
from typing import Any, NoReturn

Request = dict[str, Any]
PAUSE = 0.4  # seconds


async def shout(request: Request) -> Request:
    """Change one field."""
    return {"messages": [{**one, "content": one["content"].upper()} for one in request["messages"]]}


def warm(request: Request) -> Request:
    """Change another field, in a thread, and return the whole request."""
    assert threading.current_thread() is not threading.main_thread()
    request["temperature"] = 1.5
    return request


def cool(request: Request) -> Request:
    """Contradict `warm`."""
    return {"temperature": 0.0}


async def slowly(request: Request) -> Request:
    """Take some time."""
    await asyncio.sleep(PAUSE)
    return {"seed": 1}


def slowly_in_thread(request: Request) -> Request:
    """Take some time, in a thread."""
    time.sleep(PAUSE)
    return {"top_p": 0.5}


async def never(request: Request) -> None:
    """Hang, also when it is cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    await asyncio.sleep(0.05)


def never_in_thread(request: Request) -> None:
    """Hang in a thread, which cannot be stopped."""
    time.sleep(2)


async def fail(request: Request) -> NoReturn:
    """Fail with a message that quotes the prompt."""
    raise ValueError(str(request))


def leave(request: Request) -> NoReturn:
    """Try to end the process."""
    sys.exit(3)


async def leave_async(request: Request) -> NoReturn:
    """Try to end the process from its event loop."""
    sys.exit(3)


def spoil(request: Request) -> None:
    """Change what it was given, and return nothing."""
    request.clear()


def no_dict(request: Request) -> list[int]:
    """Return nonsense."""
    return [1]


def no_json(request: Request) -> Request:
    """Return what cannot be sent."""
    return {"metadata": object()}


def invalid(request: Request) -> Request:
    """Return what the gateway would refuse."""
    return {"messages": []}


def other_model(request: Request) -> Request:
    """Change a field that the gateway has already acted on."""
    return {"model": "another"}


NOT_A_FUNCTION = 1
