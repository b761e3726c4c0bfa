"""scripts/serve starts a gateway that works, and stops it without leaving anything behind."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from launch import any_model
from ports import free_port
from processes import until_ended

from server.config.check import parse

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "scripts" / "serve"
STATE = ROOT / ".state"
MODEL = "SmolLM2-135M-Instruct"
READY = 60  # seconds


@dataclass
class Served:
    """A running scripts/serve and what it has printed so far."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)

    @property
    def curl(self):
        [line] = [line for line in self.lines if line.startswith("curl ")]
        return line

    def children(self):
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def ready(self):
        async with asyncio.timeout(READY):
            while not self.lines or not self.lines[-1].startswith("curl "):
                line = await self.process.stdout.readline()
                assert line, self.lines
                self.lines.append(line.decode().rstrip("\n"))
        return self


@contextlib.asynccontextmanager
async def serving(*arguments, cwd=None, **environment):
    """Run scripts/serve as a terminal does: in a process group of its own."""
    process = await asyncio.create_subprocess_exec(
        SERVE,
        *arguments,
        cwd=cwd,
        env={**clean_environment(), **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield await Served(process).ready()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def clean_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}


async def shell(line):
    """Run a line as a user would paste it, and return what it printed."""
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    stdout, _ = await process.communicate()
    assert process.returncode == 0
    return stdout.decode()


def refused(*arguments, script=SERVE, **environment):
    """Run a scripts/serve that cannot start, and return its exit code and what it said on stderr."""
    done = subprocess.run(
        [script, *arguments],
        env={**clean_environment(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=READY,
        check=False,
    )
    return done.returncode, done.stderr


def states_with(text):
    """The configurations in the state directory that contain `text`. Those of other starts may vanish meanwhile."""
    states = []
    for path in STATE.glob("serve-*.toml"):
        with contextlib.suppress(FileNotFoundError):
            if text in path.read_text():
                states.append(path)
    return states


async def test_without_a_key_the_printed_line_streams_from_the_local_model():
    """The one curl line that it prints, pasted as it is, streams what a real model writes."""
    async with serving("--port", str(free_port())) as served:
        assert any("OPENAI_API_KEY is not set" in line and MODEL in line for line in served.lines)
        # A story is long: its beginning is enough here, and leaving is allowed.
        begun = await shell(f"{served.curl} | grep --max-count 20 ^data")
    chunks = [json.loads(line.removeprefix("data: ")) for line in begun.splitlines()]
    assert len([chunk for chunk in chunks if chunk["choices"][0]["delta"].get("content")]) > 10


async def test_ctrl_c_lets_the_running_stream_end():
    """A Ctrl-C, which the terminal sends to the whole group, stops the model only after the stream it is writing."""
    async with serving("--port", str(free_port())) as served:
        children = served.children()
        line = served.curl.replace('"stream": true', '"stream": true, "max_tokens": 120')
        stream = asyncio.create_task(shell(line))
        await asyncio.sleep(0.5)
        os.killpg(served.process.pid, signal.SIGINT)
        assert (await stream).rstrip().endswith("data: [DONE]")
        assert await served.process.wait() == 0
        await until_ended(*children)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_stops_with_code_0_and_leaves_nothing(number):
    """On a signal to stop it ends with status 0, and the gateway and the model end with it."""
    async with serving("--port", str(free_port())) as served:
        children = served.children()
        served.process.send_signal(number)
        assert await served.process.wait() == 0
        await until_ended(*children)


async def test_sigkill_leaves_nothing():
    """On SIGKILL, too, neither the gateway nor the model goes on running."""
    async with serving("--port", str(free_port())) as served:
        children = served.children()
        assert len(children) == 2
        served.process.kill()
        await until_ended(*children)


async def test_exit_code_of_the_gateway_is_passed_on():
    """A gateway that was killed is not reported as success, and its model does not stay."""
    async with serving("--port", str(free_port())) as served:
        model, gateway = served.children()
        os.kill(gateway, signal.SIGKILL)
        assert await served.process.wait() == 128 + signal.SIGKILL
        await until_ended(model)


async def test_with_a_key_it_relays_there(aiohttp_server):
    """With OPENAI_API_KEY and OPENAI_BASE_URL it relays any model to that place with that key, and starts no model."""
    asked = []

    async def complete(request):
        asked.append((request.headers["Authorization"], (await request.json())["model"]))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        for delta, finish in (({"role": "assistant", "content": "Hello"}, None), ({}, "stop")):
            choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
            await response.write(f"data: {json.dumps({**chunk, 'choices': choices})}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    base_url = str((await aiohttp_server(app)).make_url("/v1"))
    async with serving("--port", str(free_port()), OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=base_url) as served:
        assert len(served.children()) == 1
        assert any(base_url in line for line in served.lines)
        assert not any("sk-test" in line for line in served.lines)
        assert '"Hello"' in await shell(served.curl)
    assert asked == [("Bearer sk-test", "gpt-4o-mini")]


@pytest.mark.parametrize(
    ("models", "name"),
    [
        ({"small": "u/*"}, "small"),
        ({"*": "u/*"}, "gpt-4o-mini"),
        ({"*": "u/llama"}, "llama"),
        ({"*": "u/*", "small": "u/x"}, "small"),
        ({"claude-*": "u/*", "gpt-*": "u/llama"}, "gpt-4o-mini"),
        ({"claude-*": "u/*"}, "claude-1"),
    ],
)
def test_the_line_to_try_asks_for_a_model_that_there_is(models, name):
    """The curl line names a model that the configuration takes, whatever patterns are in it."""
    tables = [{"name": pattern, "targets": [target]} for pattern, target in models.items()]
    settings = parse({"upstreams": [{"name": "u", "base_url": "http://h"}], "models": tables}, {})
    assert any_model(settings) == name
    assert settings.resolve(name)


async def test_works_from_any_directory(tmp_path):
    """In a folder with a package of the same name it still runs the gateway's own."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise SystemExit('the wrong server')")
    port = str(free_port())
    async with serving("--host", "localhost", "--port", port, cwd=tmp_path, OPENAI_API_KEY="k") as served:
        assert f" http://localhost:{port}/v1/chat/completions " in served.curl


async def test_second_start_takes_seconds():
    """Nothing is installed twice: a second start takes seconds to a ready gateway with its model."""
    async with serving("--port", str(free_port())):
        pass
    started = time.monotonic()
    async with serving("--port", str(free_port())):
        assert time.monotonic() - started < 15


async def test_own_configuration_is_used_as_it_is(tmp_path):
    """With --config the host, port, model and keys of the file are used and shown, and no local model is started."""
    port = str(free_port())
    (tmp_path / "my.toml").write_text(
        f"""
        [server]
        host = "127.0.0.2"
        port = {port}
        [[upstreams]]
        name = "mine"
        base_url = "http://127.0.0.1:9/v1"
        [[models]]
        name = "small"
        targets = ["mine/*"]
        [[keys]]
        name = "web"
        sha256 = "{"1f" * 32}"
        """
    )
    async with serving("--config", "my.toml", cwd=tmp_path) as served:
        assert len(served.children()) == 1
        assert f" http://127.0.0.2:{port}/v1/chat/completions " in served.curl
        assert '"model": "small"' in served.curl
        assert "Authorization: Bearer" in served.curl


def test_wrong_configuration_is_named():
    """A configuration that cannot be used ends with code 2 and a line about it."""
    code, said = refused("--config", "/nowhere.toml")
    assert code == 2
    assert "/nowhere.toml" in said
    assert "Traceback" not in said


def test_port_in_use_is_one_sentence():
    """A port in use is reported in one line before anything is started."""
    name = Path("/proc/self/comm").read_text().strip()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        why = f"Address already in use by {name} (process {os.getpid()})"
        said = f"error: cannot listen on 127.0.0.1 port {port}: {why} (--port takes another)\n"
        assert refused("--port", port) == (1, said)


async def test_a_start_that_fails_leaves_the_running_gateway_as_it_is(aiohttp_server):
    """A second start on the same port, which fails, changes nothing that the first gateway reads at a SIGHUP."""
    upstream = str((await aiohttp_server(web.Application())).make_url("/v1"))
    port = str(free_port())
    async with serving("--port", port, OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=upstream) as served:
        [config] = states_with(upstream)  # other tests have files there, too
        text = config.read_text()
        assert upstream in text
        another = f"http://127.0.0.1:9/another-{port}"
        environment = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": another}
        for arguments in (("--port", port), ("--port", port, "--host", "localhost")):
            code, said = await asyncio.to_thread(refused, *arguments, **environment)
            assert (code, "Address already in use by " in said) == (1, True)
            assert not states_with(another)
            assert config.read_text() == text
        async with serving("--port", "0", **environment):  # one that starts has a file of its own, too
            assert states_with(another)
            assert config.read_text() == text
        [gateway] = served.children()
        os.kill(gateway, signal.SIGHUP)
        served.process.terminate()
        assert await served.process.wait() == 0
    assert not config.exists()


@pytest.mark.parametrize(
    ("python", "sentence"),
    [(None, "Python 3.11 or later was not found"), ("[ $# = 2 ] && case $2 in *venv*) exit 1;; esac", "venv module")],
)
def test_missing_python_is_one_sentence(tmp_path, python, sentence):
    """A machine without a new enough Python, or without its venv module, says which package is missing."""
    checkout = tmp_path / "a path with spaces"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env", "dirname", "grep"):
        (programs / name).symlink_to(shutil.which(name))
    if python:
        (programs / "python3").write_text(f"#!{shutil.which('bash')}\n{python}\n")
        (programs / "python3").chmod(0o755)
    # The directories that the script itself adds hold no Python, whatever else they hold.
    code, said = refused(script=checkout / "scripts" / "serve", PATH=str(programs))
    assert code == 1
    assert said.startswith("error: ")
    assert sentence in said
    assert said.count("\n") == 1
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("link", [".venv", ".venv/bin"])
def test_an_environment_that_is_a_link_is_left_alone(tmp_path, link):
    """A linked .venv, or one whose bin is linked, is another checkout's: it is refused in one line, and not emptied."""
    checkout, other = tmp_path / "mine", tmp_path / "other"
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    other.mkdir()
    (other / "python").touch()
    (checkout / link).parent.mkdir(exist_ok=True)
    (checkout / link).symlink_to(other)
    code, said = refused(script=checkout / "scripts" / "serve", OPENAI_API_KEY="sk-test")
    assert (code, said.count("\n")) == (1, 1)
    assert "is a link: it belongs to another checkout" in said
    assert [file.name for file in other.iterdir()] == ["python"]


def test_help_installs_nothing():
    """--help explains the command without starting anything."""
    done = subprocess.run([SERVE, "--help"], capture_output=True, text=True, check=True, timeout=5)
    assert done.stdout.startswith("usage: ./scripts/serve")
    assert not done.stderr
