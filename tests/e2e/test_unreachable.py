"""An upstream that cannot be reached: the client and the log learn which one and why, and no address."""

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from certificates import certify
from gateway import own_process
from tcp_server import listening
from wire import Client, call, complete

EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\ndata: [DONE]\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + EVENT
OWN_ID = b"X-Request-Id: req_of_its_own\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + OWN_ID + b"Transfer-Encoding: chunked\r\n\r\n"
TOKEN = EVENT.partition(b"\n\n")[0] + b"\n\n"
REFUSAL = b'{"error": {"message": "Slow down"}}'
FAILURES = {
    "a status": (
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
        % (OWN_ID, len(REFUSAL), REFUSAL)
    ),
    "an error event": STREAM + b"%x\r\ndata: %b\n\n\r\n" % (len(REFUSAL) + 8, REFUSAL),
    "a cut": STREAM + b"%x\r\n%b\r\n" % (len(TOKEN), TOKEN),
    "a secret as an id": STREAM.replace(b"req_of_its_own", b"canary-0123456789") + b"0\r\n\r\n",
}


async def refused(_folder: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A port on which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1", {}


async def unknown(_folder: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A name that is reserved for not existing (RFC 6761)."""
    yield "http://secret-host.invalid/v1", {}


async def expired(folder: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A certificate that has expired."""
    certificate = certify(folder, days=-1)
    async with listening(nothing, tls=certificate.server()) as port:
        yield f"https://localhost:{port}/v1", {"ca_file": str(certificate.certificate)}


async def nameless(folder: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A certificate that has the name only as its subject's."""
    certificate = certify(folder, alternative=False)
    async with listening(nothing, tls=certificate.server()) as port:
        yield f"https://localhost:{port}/v1", {"ca_file": str(certificate.certificate)}


async def plain(_folder: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """A port that speaks no TLS."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read(-1)

    async with listening(answer) as port:
        yield f"https://localhost:{port}/v1", {}


async def nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Say nothing."""
    await reader.read(-1)


UNREACHABLE = {
    refused: ("upstream_connect", 'The upstream "far" could not be connected: ', "connection refused (ECONNREFUSED)"),
    unknown: ("upstream_dns", 'The name of the upstream "far" could not be resolved: ', ""),
    expired: ("upstream_tls", 'The certificate of the upstream "far" was refused: ', "certificate has expired"),
    nameless: (
        "upstream_tls",
        'The certificate of the upstream "far" was refused: ',
        "it is not valid for this host name",
    ),
    plain: ("upstream_tls", 'TLS with the upstream "far" failed: ', "wrong version number"),
}


@pytest.mark.parametrize("kind", UNREACHABLE, ids=lambda kind: kind.__name__)
async def test_the_client_and_the_log_learn_why(tmp_path, kind) -> None:
    """One sentence with the upstream's name and the system's reason, in the answer and in the log line."""
    code, words, reason = UNREACHABLE[kind]
    async with contextlib.aclosing(kind(tmp_path)) as places:
        url, trust = await anext(places)
        async with own_process(url, upstream={"name": "far", **trust}) as gateway:
            answer = await complete(gateway.root, "m")
    assert (answer.status, answer.error["code"]) == (502, code)
    assert answer.error["message"].startswith(words)
    assert reason in answer.error["message"]
    assert answer.error["upstream"] == {"name": "far", "target": "far/m", "request_id": None}
    for address in (b"127.0.0.1", b"localhost", b"secret-host"):
        assert address not in answer.body
    [line] = gateway.logged("attempt failed")
    assert (line["target"], line["kind"], line["stream_id"]) == ("far/m", code, answer.headers["x-stream-id"])
    assert answer.error["message"] == f"{words}{line['reason']}."


@pytest.mark.parametrize("name", FAILURES)
async def test_the_upstreams_own_id_of_a_request(name) -> None:
    """A failure after the head names the upstream, the target, and the id for the upstream's support."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(FAILURES[name])
        await writer.drain()

    secret = {"headers": {"X-Secret": "canary-0123456789"}}
    async with listening(serve) as port, own_process(f"http://127.0.0.1:{port}/v1", upstream=secret) as gateway:
        answer = await complete(gateway.root, "m")
    error = json.loads(answer.events[-1].data)["error"] if answer.status == 200 else answer.error
    shown = "[hidden]" if "secret" in name else "req_of_its_own"
    assert error["upstream"] == {"name": "local", "target": "local/m", "request_id": shown}


async def test_the_gateway_has_no_descriptor_left() -> None:
    """Its own failure is said clearly, opens no circuit, and is over as soon as there are descriptors again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()

    recovery = {"strategy": "none", "breaker_failures": 2, "breaker_reset": 3600.0}
    async with (
        listening(serve) as port,
        own_process(f"http://127.0.0.1:{port}/v1", recovery=recovery) as gateway,
        Client(gateway.root) as client,
    ):
        soft, hard = resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE)
        answers = []
        await client.complete("m")
        assert (await client.answer()).status == 200
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (1, hard))
        for _ in range(6):
            await client.complete("m")
            answers.append(await client.answer())
        resource.prlimit(gateway.pid, resource.RLIMIT_NOFILE, (soft, hard))
        await client.complete("m")
        assert (await client.answer()).status == 200
        metrics = (await call(gateway.root, "GET", "/metrics")).body.decode()
    failed = [answer for answer in answers if answer.status != 200]
    assert len(failed) >= 5  # the connection that was made at the start may serve one
    for answer in failed:
        assert (answer.status, answer.error["code"]) == (503, "gateway_exhausted")
        assert answer.error["message"] == (
            'The gateway has no socket left for the upstream "local": too many open files (EMFILE).'
        )
        assert answer.headers["retry-after"] == "1"
    assert 'sluiceway_breaker_state{target="local/*"} 0.0' in metrics
    assert gateway.logged("attempt failed")[-1]["reason"] == "too many open files (EMFILE)"
