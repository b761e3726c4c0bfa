"""Runs the commands as a user does, with pipes in place of a terminal."""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from forked import Forked
from lab.processes import ROOT

NO_KEY = {name: value for name, value in os.environ.items() if name != "SLUICEWAY_KEY"}


@asynccontextmanager
async def running(*arguments: str, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `sluiceway` with pipes until the end of the block."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "server", *arguments, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe,
        env={**NO_KEY, **environ},
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run(*arguments: str, typed: str = "", **environ: str) -> tuple[int, str, str]:
    """Run `sluiceway` to its end with `typed` as its input; return its status, standard output and standard error."""
    with tempfile.TemporaryDirectory() as folder:
        given, out, err = (Path(folder, name) for name in ("in", "out", "err"))
        given.write_text(typed, encoding="utf-8")
        out.touch()
        err.touch()
        process = Forked(list(arguments), {**NO_KEY, **environ}, ROOT, (str(given), str(out), str(err)))
        try:
            status = await asyncio.to_thread(process.wait, 60)
        finally:
            process.kill()
        return status, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")
