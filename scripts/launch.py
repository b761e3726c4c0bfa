"""The main part of scripts/serve: starts the upstream and the gateway, prints how to try it, and stops both."""

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from local_model import NAME as LOCAL_MODEL
from local_model import LocalModel, ModelError

from server.api.listener import cannot_listen
from server.config.check import load
from server.config.problems import ConfigError
from server.config.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
OPENAI = "https://api.openai.com/v1"
ANY_MODEL = "gpt-4o-mini"  # the model in the curl line if the configuration takes every name
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # these are compared, not bound
POLL = 0.1

LOCAL_CONFIG = """\
# scripts/serve has written this file for one start. To change it, make a copy and start with --config.
[[upstreams]]
name = "local"
base_url = {base_url}
continuation = "assistant"
ttft_timeout = 120.0  # the model writes four answers at a time; the others wait for their turn

[[models]]
name = "{model}"
targets = ["local/{model}"]
"""

OPENAI_CONFIG = """\
# scripts/serve has written this file for one start. To change it, make a copy and start with --config.
[[upstreams]]
name = "openai"
base_url = {base_url}
api_key_env = "OPENAI_API_KEY"

[[models]]
name = "*"
targets = ["openai/*"]
"""


class LaunchError(Exception):
    """The gateway was not started. The message is one sentence for the user."""


async def launch(upstream: str, arguments: list[str]) -> int:
    """Run the gateway by the arguments, and the local model if it is the upstream. Return the gateway's exit code."""
    parser = argparse.ArgumentParser(prog="serve", allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    options, others = parser.parse_known_args(arguments)

    model = LocalModel(free_port()) if upstream == "local" else None
    with contextlib.nullcontext(options.config) if options.config else written(generated_config(model)) as config:
        return await run(model, config, options.host, options.port, others)


@contextlib.contextmanager
def written(config: str) -> Iterator[Path]:
    """Write a configuration into a new file for the block. A running gateway would reload one that was overwritten."""
    folder = ROOT / ".state"
    folder.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix="serve-", suffix=".toml", encoding="utf-8") as file:
        file.write(config)
        file.flush()
        yield Path(file.name)


async def run(model: LocalModel | None, config: Path, host: str | None, port: int | None, others: list[str]) -> int:
    """Run the model, if there is one, and the gateway with the file `config`. Return the gateway's exit code."""
    settings = load(config, os.environ, host=host, port=port)
    # Do this before anything is started, so that a port in use is reported at once.
    host, port = settings.server.host, free_port(settings.server.host, settings.server.port)

    async with model or contextlib.nullcontext():
        gateway = await asyncio.create_subprocess_exec(
            # If this process is killed, the gateway still drains and ends.
            *("setpriv", "--pdeathsig", "TERM"),
            # -P: do not import a directory "server" that the user happens to be in.
            *(sys.executable, "-P", "-m", "server", "serve", "--config", str(config)),
            *("--host", host, "--port", str(port), *others),
            # Ctrl-C reaches the whole process group. The gateway is not in it, so that this process can stop things in
            # order.
            start_new_session=True,
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop, gateway, number)
        greeting = asyncio.create_task(greet(settings, host, port))
        code = await gateway.wait()
        greeting.cancel()
        await asyncio.wait([greeting])
    # The model has been stopped last, after the gateway's last stream.
    return code if code >= 0 else 128 - code


def generated_config(model: LocalModel | None) -> str:
    """Return the configuration that fits the environment, and print which upstream that is."""
    if model:
        say(f"OPENAI_API_KEY is not set: {LOCAL_MODEL}, a small local model, is the upstream.")
        return LOCAL_CONFIG.format(base_url=toml(model.url), model=LOCAL_MODEL)
    base_url = os.environ.get("OPENAI_BASE_URL") or OPENAI
    say(f"OPENAI_API_KEY is set: {base_url} is the upstream.")
    return OPENAI_CONFIG.format(base_url=toml(base_url))


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """Return the port if it is free; for 0 return any free port. Raises LaunchError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise LaunchError(f"{cannot_listen(host, port, error)} (--port takes another)") from error


def stop(gateway: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Tell the gateway to drain, after a Ctrl-C without notice. It may have ended by itself a moment ago."""
    with contextlib.suppress(ProcessLookupError):
        gateway.send_signal(signal.SIGTERM if number == signal.SIGTERM else signal.SIGINT)


async def greet(settings: Settings, host: str, port: int) -> None:
    """Wait until the gateway is ready, and print a command that tries it."""
    host = EVERYWHERE.get(host, host)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while not await is_ready(session, url):  # noqa: ASYNC110  # another process sets no event
            await asyncio.sleep(POLL)
    say(f"Sluiceway is ready on {url}/ and Ctrl-C stops it. To try it:")
    say(curl(settings, url))


async def is_ready(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether the gateway says that it is ready."""
    try:
        async with session.get(f"{url}/readyz") as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


def curl(settings: Settings, url: str) -> str:
    """Return a line for the shell that streams an answer of a model."""
    model = any_model(settings)
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "Tell me a story."}]}
    line = ["curl", "-N", f"{url}/v1/chat/completions", "-H", "Content-Type: application/json"]
    if settings.keys:
        line += ["-H", "Authorization: Bearer YOUR-KEY"]
    return shlex.join([*line, "-d", json.dumps(body)])


def any_model(settings: Settings) -> str:
    """Return a name that the configuration takes: its own, a target's, a usual one, or else a made-up one."""
    names = [model.name for model in settings.models if not model.is_pattern]
    names += [target.model for model in settings.models for target in model.targets if target.model]
    names += [ANY_MODEL, settings.models[0].name.replace("*", "1")]
    return next(name for name in names if settings.resolve(name))


def toml(value: str) -> str:
    """Quote a string for TOML, whose basic strings are JSON's."""
    return json.dumps(value, ensure_ascii=False)


def say(line: str) -> None:
    """Print at once, even into a pipe."""
    print(line, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(launch(sys.argv[1], sys.argv[2:])))
    except (LaunchError, ModelError) as failure:
        sys.exit(f"error: {failure}")
    except ConfigError as failure:
        print(failure, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
