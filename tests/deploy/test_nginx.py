"""The real nginx on deploy/nginx.conf itself, with nothing changed but ports and places, before real gateways."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import internals
import pytest
from certificates import certify
from gateway import in_process, own_process
from timing import until_fast
from wire import Client, CutError, call, completion, texts, until

from server.api.connection import KEEPALIVE_TIMEOUT
from server.config.settings import Flow, Server, Streams

FILE = Path(__file__).parents[2] / "deploy" / "nginx.conf"
PROGRAM = shutil.which("nginx", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")
PLACES = {
    "/run/nginx.pid": "nginx.pid",
    "/var/log/nginx/error.log": "error.log",
    "/var/log/nginx/access.log": "access.log",
    "/etc/sluiceway/tls/": "",
}
TEMPORARY = "".join(f"{one}_temp_path {one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
BOUND = 1_000_000  # bytes that may be under way to a client that does not read
NOWHERE = 1  # a port on which nobody listens


class Front:
    """A running nginx."""

    def __init__(self, folder: Path, port: int, tls: ssl.SSLContext, process: subprocess.Popen) -> None:
        self.root = f"https://127.0.0.1:{port}"
        self.folder = folder
        self.process = process
        self._tls = tls

    def client(self) -> Client:
        return Client(self.root, self._tls)

    async def complete(self, model, **fields):
        async with self.client() as client:
            await client.complete(model, **fields)
            return await client.answer()

    async def call(self, method, path, body=None, headers=None):
        async with self.client() as client:
            await client.ask(method, path, body, headers)
            return await client.answer()

    def workers(self) -> set[int]:
        pid = self.process.pid
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))

    def reload(self) -> None:
        run("-s", "reload", folder=self.folder)


def configured(folder: Path, port: int, gateways: list[int]) -> Path:
    """Write deploy/nginx.conf with the ports and folders of this test."""
    text = FILE.read_text()
    swaps = {
        **{place: f"{folder}/{name}" for place, name in PLACES.items()},
        "listen 443 ": f"listen 127.0.0.1:{port} ",
    }
    swaps |= {f"127.0.0.1:{8080 + i}": f"127.0.0.1:{gateway}" for i, gateway in enumerate(gateways)}
    swaps["http {"] = f"http {{ {TEMPORARY}"  # as one who may not write to /var/lib
    for old, new in swaps.items():
        assert old in text, old
        text = text.replace(old, new)
    config = folder / "nginx.conf"
    config.write_text(text)
    return config


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    assert PROGRAM, "there is no nginx: ./scripts/test installs it"
    command = [PROGRAM, "-p", f"{folder}/", "-c", str(folder / "nginx.conf"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@contextlib.asynccontextmanager
async def front(folder: Path, *gateways: int):
    """Run nginx before the gateways at these ports."""
    certificate = certify(folder)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        config = configured(folder, port, list(gateways))
        # nginx takes over listening sockets that NGINX names: so the port is the kernel's choice, and nobody else's.
        process = subprocess.Popen(  # noqa: ASYNC220  # a fork takes a millisecond, and no loop owns the process
            [PROGRAM, "-p", f"{folder}/", "-c", str(config), "-e", "stderr", "-g", "daemon off;"],
            env={**os.environ, "NGINX": f"{listener.fileno()};"},
            pass_fds=[listener.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            running = Front(folder, port, certificate.client(), process)
            # It answers, so the options of `listen` are set: a connection from before would not have them.
            await running.call("GET", "/healthz")
            yield running
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)


@pytest.fixture
async def nginx(provider, tmp_path):
    """nginx before two gateways, which are in this process."""
    async with (
        in_process(provider.url) as one,
        in_process(provider.url) as other,
        front(tmp_path, one.port, other.port) as running,
    ):
        running.gateways = [one, other]
        yield running


async def one_seen(provider, model, condition):
    async def met():
        [seen] = await provider.seen(model)
        return seen if condition(seen) else None

    return await until(met)


def test_syntax(tmp_path) -> None:
    """nginx takes the file without a warning."""
    certify(tmp_path)
    configured(tmp_path, 8443, [8080, 8081])
    done = run("-t", "-e", "stderr", folder=tmp_path)
    words = [
        line for line in done.stderr.splitlines() if "syntax is ok" not in line and "test is successful" not in line
    ]
    assert (done.returncode, words) == (0, [])


def test_numbers_fit_the_gateway() -> None:
    """Its timeouts and sizes fit the gateway's defaults."""
    text = re.sub(r"#.*", "", FILE.read_text())
    read = float(re.search(r"proxy_read_timeout (\d+)s;", text)[1])
    assert read > 3 * Flow().heartbeat_interval
    assert read > Streams().total_timeout  # an answer that is not streamed is silent for so long
    assert float(re.search(r"send_timeout (\d+)s;", text)[1]) > Flow().drain_timeout - 1
    sizes = [int(found) << 20 for found in re.findall(r"client_max_body_size (\d+)m;", text)]
    assert sizes == [Server().max_body_bytes, Server().max_upload_bytes]
    assert all(float(found) < KEEPALIVE_TIMEOUT for found in re.findall(r"keepalive_timeout (\d+)s;", text))


async def test_first_byte_is_not_delayed(nginx, provider, model) -> None:
    """The first token reaches the client while the upstream sends nothing more: nothing buffers it."""

    async def ask(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, {"stall_after": 1})
        async with nginx.client() as client:
            await client.complete(name)
            status, headers = await client.head()
            await client.events(1)
            came = time.monotonic()
            assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
            assert "content-encoding" not in headers
            return came - (await provider.seen(name))[0]["first_token_at"]

    await until_fast(ask, 0.1)  # a millisecond, on a machine of one's own


async def test_http2(nginx, provider, model) -> None:
    """The same holds over HTTP/2, with curl, and the whole stream arrives."""
    await provider.script(model, {"tokens": 10, "stall_after": 5, "stall_for": 1.0})
    command = ["curl", "-sSN", "--http2", "--cacert", str(nginx.folder / "certificate.pem"), "-m", "20"]
    command += ["-w", "%{http_version}", "-H", "Content-Type: application/json"]
    command += ["-d", json.dumps(completion(model))]
    process = await asyncio.create_subprocess_exec(
        *command, f"{nginx.root}/v1/chat/completions", stdout=asyncio.subprocess.PIPE
    )
    early = await process.stdout.readuntil(b"\n\n")
    assert (await provider.seen(model))[0]["content_chunks"] < 10
    body = early + await process.stdout.read()
    assert await process.wait() == 0
    assert body.endswith(b"data: [DONE]\n\n2")
    assert body.count(b"\n\n") == 10 + 3  # the role, the finish and [DONE]


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_disconnect_reaches_the_upstream(nginx, provider, model, how) -> None:
    """When the client leaves, the upstream's socket is closed."""

    async def leave(number: int) -> float:
        name = f"{model}-{number}"
        await provider.script(name, {"tokens": 10_000, "rate": 50})
        async with nginx.client() as client:
            await client.complete(name)
            await client.head()
            await client.events(3)
            left = time.monotonic()
            client.leave(how)
            seen = await one_seen(provider, name, lambda seen: seen["closed_by_client_at"])
        return seen["closed_by_client_at"] - left

    await until_fast(leave, 0.1)


async def test_disconnect_before_the_first_byte(nginx, provider, model) -> None:
    """When the client leaves before the first token, the upstream's socket is closed as well."""
    await provider.script(model, {"never_answer": True})
    async with nginx.client() as client:
        await client.complete(model)
        await until(lambda: provider.seen(model))
        client.leave("fin")
        await one_seen(provider, model, lambda seen: seen["closed_by_client_at"])


async def test_backpressure_reaches_the_upstream(nginx, provider, model) -> None:
    """While a client does not read, the upstream stands still within a megabyte; when it reads, it gets everything."""
    # More bytes a second than any model. At full speed nginx's kernel buffers tune themselves to another megabyte.
    await provider.script(model, {"tokens": 2_000, "big": 2_000, "rate": 600})
    async with nginx.client() as client:
        # The client's own kernel is not to take what nobody reads.
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.pause_reading()
        await client.complete(model)
        stood, acked = 0, -1
        async with asyncio.timeout(30):
            while stood < 10:  # a second without one more byte
                await asyncio.sleep(0.1)
                found = await provider.seen(model)
                now = found[0]["bytes_acked"] if found else -1
                stood, acked = (stood + 1 if now == acked and now > 0 else 0), now
        assert acked <= BOUND
        [stream] = [one for gateway in nginx.gateways for one in internals.live_streams(gateway.app)]
        assert stream.stream.paused
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.resume_reading()
        await client.head()
        assert len(texts(await client.rest())) == 2_000


async def test_reload_in_mid_stream(nginx, provider, model) -> None:
    """`nginx -s reload` ends no stream: the old worker goes on with it, a new one takes what comes."""
    await provider.script(model, {"tokens": 80, "rate": 30}, {"tokens": 3})
    async with nginx.client() as client:
        await client.complete(model)
        await client.head()
        await client.events(5)
        before = nginx.workers()
        nginx.reload()
        await until(lambda: asyncio.sleep(0, nginx.workers() - before))
        assert len(texts((await nginx.complete(model)).events)) == 3
        assert len(texts(await client.rest())) == 80
    await until(lambda: asyncio.sleep(0, not nginx.workers() & before))  # and then it is gone


async def test_a_cut_stays_a_cut(provider, model, tmp_path) -> None:
    """When a gateway dies the client sees a broken response, not a short one that looks whole."""
    await provider.script(model, {"tokens": 10_000, "rate": 50})
    async with (
        own_process(provider.url) as gateway,
        front(tmp_path, gateway.port, NOWHERE) as nginx,
        nginx.client() as client,
    ):
        await client.complete(model)
        await client.head()
        await client.events(3)
        gateway.signal(signal.SIGKILL)
        with pytest.raises(CutError):
            await client.rest()


async def test_the_other_gateway(provider, model, tmp_path) -> None:
    """With one of two gateways down, every request is answered by the other, POSTs as well."""
    async with in_process(provider.url) as gateway, front(tmp_path, NOWHERE, gateway.port) as nginx:
        for _ in range(8):
            assert (await nginx.complete(model)).status == 200


async def test_a_post_is_not_sent_twice(provider, model, tmp_path) -> None:
    """A generation whose gateway dies is not begun again by nginx: the client is told, in OpenAI's shape."""
    await provider.script(model, {"never_answer": True})
    async with (
        own_process(provider.url) as one,
        own_process(provider.url) as other,
        front(tmp_path, one.port, other.port) as nginx,
    ):
        asking = asyncio.create_task(nginx.complete(model))
        await until(lambda: provider.seen(model))
        [busy] = [gateway for gateway in (one, other) if (await call(gateway.root, "GET", "/v1/streams")).json["data"]]
        busy.signal(signal.SIGKILL)
        answer = await asking
        assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (503, "gateway_away", "1")
        assert (await nginx.complete(f"{model}-next")).status == 200
        assert len(await provider.seen(model)) == 1


async def test_any_gateway_has_every_stream(provider, model, tmp_path) -> None:
    """Two gateways on one store: each shows and resumes the other's stream."""
    await provider.script(model, {"tokens": 20, "rate": 40})
    store = {"store": {"kind": "sqlite", "path": str(tmp_path / "streams.db")}}
    async with (
        own_process(provider.url, **store) as one,
        own_process(provider.url, **store) as other,
        front(tmp_path, one.port, other.port) as nginx,
    ):
        answer = await nginx.complete(model)
        path = f"/v1/streams/{answer.headers['x-stream-id']}"
        for _ in range(4):  # least_conn takes turns
            again = await nginx.call("GET", path, headers={"Last-Event-ID": "5"})
            assert again.events == answer.events[5:]


async def test_limits(nginx, provider, model) -> None:
    """nginx's own refusals, of a large body or too many requests, have the shape that SDKs read."""
    large = completion(model, padding="x" * Server().max_body_bytes)
    async with nginx.client() as client:
        await client.ask("POST", "/v1/chat/completions", large)
        answer = await client.answer()
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    async with nginx.client() as client:
        form = {"Content-Length": str(Server().max_upload_bytes), "Expect": "100-continue"}
        await client.ask("POST", "/v1/audio/transcriptions", b"", {"Content-Type": "multipart/form-data", **form})
        assert (await client.head())[0] == 100  # a form may be larger
    async with nginx.client() as client:
        for _ in range(600):  # on one connection, faster than fifty a second by far
            await client.ask("GET", "/healthz")
            answer = await client.answer()
            if answer.status != 200:
                break
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
    assert not await provider.seen(model)


async def test_foreign_names_stay_foreign(nginx) -> None:
    """Through nginx, too, a gateway without keys sees a Host that is not this machine's."""
    answer = await nginx.call("GET", "/v1/models", headers={"Host": "evil.example"})
    assert (answer.status, answer.error["code"]) == (403, "forbidden_host")


async def test_nothing_secret_is_logged(nginx, provider, model) -> None:
    """nginx's own logs have neither prompt nor key nor query."""
    headers = {"Authorization": "Bearer canary-key"}
    async with nginx.client() as client:
        body = completion(model, user="canary-prompt")
        await client.ask("POST", "/v1/chat/completions?canary=query", body, headers)
        assert (await client.answer()).status == 200
    log = nginx.folder / "access.log"
    await until(lambda: asyncio.sleep(0, "chat/completions" in log.read_text()))
    assert "canary" not in log.read_text() + (nginx.folder / "error.log").read_text()
