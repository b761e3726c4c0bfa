"""The first minutes: `init`, `check` and `serve` without a file, as a user types them."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
import wire
from gateway import ROOT
from ports import free_port
from provider import Provider

from server.config.finding import OPENAI, PLACES, NothingToRunError, configuration_file, of_the_environment

ASK = {"stream": True, "messages": [{"role": "user", "content": "Hi"}]}


def sluiceway(*arguments: str, cwd: Path, **environ: str) -> tuple[int, str, str]:
    """Run a command in a folder, without the variables of this process; return its status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "server", *arguments],
        cwd=cwd, env={"PYTHONPATH": str(ROOT), **environ}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_init_writes_a_file_that_is_right(tmp_path) -> None:
    """`init` and `check` need no argument, and the file runs as it is if its key is there."""
    status, out, _ = sluiceway("init", cwd=tmp_path)
    assert (status, out) == (
        0, "sluiceway.toml is written. Edit it, then: sluiceway check && sluiceway serve\n"
    )  # fmt: skip
    assert sluiceway("check", cwd=tmp_path, OPENAI_API_KEY="k") == (0, "1 upstream, 1 model, memory\n", "")


def test_init_never_writes_over_a_file(tmp_path) -> None:
    """A file that exists stays as it is, and so does what a link leads to."""
    (tmp_path / "mine.toml").write_text("mine")
    (tmp_path / "link.toml").symlink_to("mine.toml")
    for name in ("mine.toml", "link.toml"):
        assert sluiceway("init", name, cwd=tmp_path) == (
            1, "", f"sluiceway: {name} exists, and is left as it is.\n"
        )  # fmt: skip
    assert (tmp_path / "mine.toml").read_text() == "mine"
    status, _, said = sluiceway("init", "no/folder.toml", cwd=tmp_path)
    assert (status, said) == (1, "sluiceway: no/folder.toml cannot be written: No such file or directory.\n")


def test_what_would_run(tmp_path) -> None:
    """`check` counts upstreams and models and names the store. Every comment of the template is a key that exists."""
    sluiceway("init", cwd=tmp_path)
    lines = (tmp_path / "sluiceway.toml").read_text().replace('"memory"', '"sqlite"').splitlines()
    keys = ("# [[", "# name", "# base_url", "# targets", "# sha256")
    full = [line.removeprefix("# ") if line.startswith(keys) else line for line in lines]
    (tmp_path / "full.toml").write_text("\n".join(full).replace("…", "1f" * 32))
    status, out, said = sluiceway("check", "--config", "full.toml", cwd=tmp_path, OPENAI_API_KEY="k")
    assert (status, out, said) == (0, "2 upstreams, 2 models, sqlite\n", "")


@pytest.mark.parametrize("command", ["serve", "check"])
def test_nothing_to_run_is_one_sentence(tmp_path, command: str) -> None:
    """Without a file and a key the command says what to do, with status 2."""
    if PLACES[1].exists():
        pytest.skip(f"{PLACES[1]} is here")
    status, out, said = sluiceway(command, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert said.count("\n") == 1
    assert "sluiceway init" in said


async def test_serve_without_a_file(provider: Provider, model: str, tmp_path) -> None:
    """With OpenAI's variables the gateway relays there, on the loopback, and says so."""
    await provider.script(model, {"text": "The sea is wide."})
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "server", "serve", "--port", str(port)),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": provider.url},
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        line = (await process.stderr.readline()).decode()
        assert line == (
            f"sluiceway: configuration: no file; OPENAI_API_KEY is set, and {provider.url} is the upstream\n"
        )
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

            async def ready() -> bool:
                try:
                    return (await session.get("/readyz")).status == 200
                except aiohttp.ClientError:
                    return False

            await wire.until(ready, 30.0)
            async with session.post("/v1/chat/completions", json={**ASK, "model": model}) as response:
                assert "".join(wire.texts(wire.events_of(await response.read()))) == "The sea is wide."
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def test_which_file(tmp_path) -> None:
    """The file that was named wins, then the first place that has one."""
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    assert configuration_file(None, (first, second)) is None
    second.touch()
    assert configuration_file(None, (first, second)) == second
    first.touch()
    assert configuration_file(None, (first, second)) == first
    assert configuration_file(tmp_path / "named.toml", (first, second)) == tmp_path / "named.toml"


def test_the_upstream_of_the_environment() -> None:
    """OpenAI itself is the upstream if no address is set; an empty variable is none."""
    assert of_the_environment({"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": ""})["upstreams"][0]["base_url"] == OPENAI
    with pytest.raises(NothingToRunError):
        of_the_environment({"OPENAI_API_KEY": ""})
