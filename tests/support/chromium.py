"""The console in Chromium: plays the scenarios of `tests/js/console.mjs`."""

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from typing import Any

from node import JS, NODE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""


async def console(
    root: str, scenario: str, argument: str = "", *, act: Callable[[], Awaitable[None]] | None = None
) -> Any:
    """Play a scenario of `tests/js/console.mjs` and return its result. It may ask for `act`, which is called then."""
    assert CHROMIUM, "there is no chromium: ./scripts/test installs it"
    process = await asyncio.create_subprocess_exec(
        NODE or "node", str(JS / "console.mjs"), CHROMIUM, root, scenario, argument,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=1 << 24,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(100):
            while line := await process.stdout.readline():
                if not line.startswith(b"!"):
                    return json.loads(line)
                assert act is not None
                await act()
                process.stdin.write(b"done\n")
        raise AssertionError(f"the scenario {scenario} failed: its error is on standard error")
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def check(result: Any) -> None:
    """Check that there was no script error, no breach of the page's policy, and no request to another host."""
    assert result["problems"] == []
    assert result["foreign"] == []
