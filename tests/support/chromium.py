"""The console in Chromium: plays the scenarios of `tests/js/console.mjs`."""

import shutil
from collections.abc import Awaitable, Callable
from typing import Any

from node import node

# The shell is the engine without a window around it: a test costs half as much.
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), "")


async def console(
    root: str, scenario: str, argument: str = "", *, act: Callable[[], Awaitable[None]] | None = None
) -> Any:
    """Play a scenario of `tests/js/console.mjs` and return its result. It may ask for `act`, which is called then."""
    assert CHROMIUM, "there is no chromium: ./scripts/test installs it"
    return await node("console.mjs", CHROMIUM, root, scenario, argument, seconds=100, act=act)


def check(result: Any) -> None:
    """Check that there was no script error, no breach of the page's policy, and no request to another host."""
    assert result["problems"] == []
    assert result["foreign"] == []
