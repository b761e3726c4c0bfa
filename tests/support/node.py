"""Runs the scripts of `tests/js`: in one Node process for all tests of a worker, whose SDKs and browser stay loaded."""

import asyncio
import atexit
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

JS = Path(__file__).parents[1] / "js"
NODE = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


class Driver:
    """A process of `tests/js/driver.mjs`, which plays one script at a time."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen(
            [program, str(JS / "driver.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def exchange(self, line: str) -> str:
        """Send a line and wait for the next one. It is empty if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()

    def end(self) -> None:
        """Let it close its browser and end, within a few seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.terminate()  # Chromium ends with it
            self._process.wait()
        self._process.stdout.close()


_drivers: dict[str, Driver] = {}


@atexit.register
def _end() -> None:
    while _drivers:
        _drivers.popitem()[1].end()


async def node(
    script: str,
    *arguments: str,
    program: str | None = NODE,
    seconds: float = 60.0,
    act: Callable[[], Awaitable[None]] | None = None,
) -> Any:
    """Play `tests/js/SCRIPT` and return what it prints. If it asks for `act`, that is called.

    Raises RuntimeError if it fails, and TimeoutError.
    """
    if program is None:
        raise RuntimeError("there is no node: ./scripts/test installs one")
    driver = _drivers.pop(program, None) or Driver(program)
    line = json.dumps({"script": script, "given": arguments})
    try:
        async with asyncio.timeout(seconds):
            while line := await asyncio.to_thread(driver.exchange, line):
                answer = json.loads(line)
                if "please" not in answer:
                    break
                assert act is not None
                await act()
                line = "done"
            else:
                raise RuntimeError(f"{script} ended the driver: its error is on standard error")
    except BaseException:
        driver.end()  # what the script still does must not reach into the next test
        raise
    _drivers[program] = driver
    if "failed" in answer:
        raise RuntimeError(f"{script} failed: {answer['failed']}")
    return answer["said"]
