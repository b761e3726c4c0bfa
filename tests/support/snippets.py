"""Finds the fenced code of a page, and runs it against a gateway."""

import asyncio
import os
import re
import sys
from pathlib import Path

from lab.processes import ROOT
from node import JS, NODE

ADDRESS = "http://127.0.0.1:8080"  # of the gateway in every page
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BIN = str(Path(sys.executable).parent)


def blocks(page: str, language: str) -> list[str]:
    """Return the code of one language in a page."""
    return [code for name, code in FENCE.findall((ROOT / page).read_text(encoding="utf-8")) if name == language]


async def run(language: str, code: str, root: str, folder: Path, typed: str = "", **environ: str) -> str:
    """Run code of a page against the gateway at `root`; return its output. Raises AssertionError if it fails."""
    packages = {name: ROOT / name for name in ("server", "sluiceway")}
    modules = {f"node_modules/{path.name}": path for path in (JS / "node_modules").iterdir()}
    modules["node_modules/sluiceway"] = ROOT / "server" / "static"  # as npm installs it
    (folder / "node_modules").mkdir(exist_ok=True)
    for name, target in {**packages, **modules}.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(target)
    suffix, program = {
        "python": ("py", [sys.executable]),
        "js": ("mjs", [NODE or "node", "--preserve-symlinks", "--preserve-symlinks-main"]),
        "sh": ("sh", ["bash", "-eu"]),
    }[language]
    file = folder / f"snippet.{suffix}"
    file.write_text(code.replace(ADDRESS, root), encoding="utf-8")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *program, str(file), cwd=folder, stdin=pipe, stdout=pipe, stderr=pipe,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environ},
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            out, err = await process.communicate(typed.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()
