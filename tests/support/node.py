"""Runs Node for the JavaScript tests."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

JS = Path(__file__).parents[1] / "js"
NODE = shutil.which("node", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


async def node(script: str, *arguments: str, program: str | None = NODE, seconds: float = 60.0) -> Any:
    """Run `tests/js/SCRIPT` and return the JSON of its last line. Raises RuntimeError with its output if it fails."""
    if program is None:
        raise RuntimeError("there is no node: ./scripts/test installs one")
    process = await asyncio.create_subprocess_exec(
        program, str(JS / script), *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise RuntimeError(f"{script} did not end: {out.decode()} {err.decode()}") from None
    if process.returncode:
        raise RuntimeError(f"{script} failed: {out.decode()} {err.decode()}")
    return json.loads(out.splitlines()[-1])
