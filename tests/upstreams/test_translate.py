"""Foreign exceptions, each from a real socket: what goes wrong on the way to an upstream, and what it is called."""

import asyncio
import contextlib
import errno
import itertools
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from certificates import certify
from tcp_server import Serve, listening

from server.config.settings import Upstream
from server.core.errors import Kind, UpstreamError
from server.core.recovery.present import MAX_MESSAGE
from server.core.timing import Phases
from server.upstreams import connecting
from server.upstreams.client import UpstreamClient
from server.upstreams.reasons import is_own, reason_of
from server.upstreams.translate import FOREIGN, translate

SECRET = "sk-secret-0123456789"


async def ask(base_url: str, model: str = "m", **settings: Any) -> bytes:
    """Ask an upstream as an attempt does; return its whole body. Raises UpstreamError."""
    upstream = Upstream(name="u", base_url=base_url, api_key_env="KEY", **{"connect_timeout": 20.0, **settings})
    client = UpstreamClient(upstream, {"KEY": SECRET})
    body = b'{"model": "%b", "messages": [{"role": "user", "content": "x"}], "stream": true}' % model.encode()
    try:
        async with asyncio.timeout(30), await client.post(body, Phases(0.0), {}) as response:
            try:
                return await response.content.read()
            except FOREIGN as error:
                raise translate(error, in_body=True) from error
    finally:
        await client.close()


async def failure(base_url: str, model: str = "m", **settings: Any) -> UpstreamError:
    """Return the failure of a request that must fail, and check that it holds neither the key nor the address."""
    with pytest.raises(UpstreamError) as raised:
        await ask(base_url, model, **settings)
    error = raised.value
    assert SECRET not in repr(error)
    assert "127.0.0.1" not in error.message
    return error


@contextlib.asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server on a port of the kernel's choice; yields its host and port."""
    async with listening(serve, tls=tls) as port:
        yield f"127.0.0.1:{port}"


def answering(data: bytes) -> Serve:
    """Read a request's head, answer with these bytes, close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()

    return serve


# --- before the head -------------------------------------------------------------------------------------------------


async def test_refused() -> None:
    """Nobody listens: a connection that failed, and why."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound but not listening: the port stays ours, and refuses
        error = await failure(f"http://127.0.0.1:{bound.getsockname()[1]}/v1")
    assert error.kind is Kind.CONNECT
    assert error.message == 'The upstream "u" could not be connected: connection refused (ECONNREFUSED).'


async def test_unknown_name() -> None:
    """A name that the DNS does not know (RFC 6761 reserves .invalid for that)."""
    error = await failure("http://upstream.invalid/v1")
    assert error.kind is Kind.DNS
    assert error.message.startswith('The name of the upstream "u" could not be resolved: ')
    assert error.reason in (
        "name or service not known (EAI_NONAME)",
        "temporary failure in name resolution (EAI_AGAIN)",
    )


async def test_connect_timeout() -> None:
    """A listener whose backlog is full does not answer: that ends at `connect_timeout`."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # two are taken, the others fill what is left
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        error = await failure(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", connect_timeout=0.3)
    assert error.kind is Kind.CONNECT_TIMEOUT
    assert error.http_status == 504


async def test_tls_handshake_that_hangs() -> None:
    """The connect timeout covers TLS: a server that accepts and says nothing does not hold an attempt."""

    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)

    async with serving(silent) as place:
        assert (await failure(f"https://{place}/v1", connect_timeout=0.3)).kind is Kind.CONNECT_TIMEOUT


async def test_tls_to_a_plain_port() -> None:
    """https to a port that speaks HTTP is an error of TLS, which no retry can mend."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read(-1)  # until the client has left: a reset could overtake the answer

    async with serving(plain) as place:
        error = await failure(f"https://{place}/v1")
    assert error.kind is Kind.TLS
    assert error.message == 'TLS with the upstream "u" failed: wrong version number.'
    assert not error.trait.same


REFUSED_CERTIFICATES = {
    "self-signed": ({}, False, "self-signed certificate"),
    "expired": ({"days": -1}, True, "certificate has expired"),
    "another name": ({"name": "other.example"}, True, "it is not valid for this address"),
    "a name only": ({"alternative": False}, True, "it is not valid for this host name"),
}


@pytest.mark.parametrize("name", REFUSED_CERTIFICATES)
async def test_certificate(tmp_path, name) -> None:
    """A certificate that cannot be verified is refused, and the reason is told without the host's name."""
    how, is_trusted, reason = REFUSED_CERTIFICATES[name]
    certificate = certify(tmp_path, **how)
    trust = {"ca_file": str(certificate.certificate)} if is_trusted else {}
    async with serving(answering(b""), certificate.server()) as place:
        host = place.replace("127.0.0.1", "localhost") if "host name" in reason else place
        error = await failure(f"https://{host}/v1", **trust)
    assert error.kind is Kind.TLS
    assert error.message == f'The certificate of the upstream "u" was refused: {reason}.'
    assert not error.trait.same


async def test_trusted_certificate(tmp_path) -> None:
    """With `ca_file` a certificate of one's own is accepted."""
    certificate = certify(tmp_path)
    answer = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    async with serving(answer, certificate.server()) as place:
        assert await ask(f"https://{place}/v1", ca_file=str(certificate.certificate)) == b"ok"


async def test_reset_before_the_head(provider, model) -> None:
    """A RST after the request means that nothing was answered."""
    await provider.script(model, {"reset_before_head": True})
    error = await failure(provider.url, model)
    assert error.kind is Kind.RESET
    assert error.reason == "connection reset by peer (ECONNRESET)"


async def test_closed_before_the_head() -> None:
    """So does a FIN after the request, or in the middle of the head."""
    for head in (b"", b"HTTP/1.1 200 OK\r\nContent-Ty"):
        async with serving(answering(head)) as place:
            assert (await failure(f"http://{place}/v1")).kind is Kind.RESET


@pytest.mark.parametrize(
    "head",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"\x16\x03\x01\x00\x01\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_bad_http(head) -> None:
    """An answer that is not HTTP, or not within its bounds, is garbage."""
    async with serving(answering(head)) as place:
        assert (await failure(f"http://{place}/v1")).kind is Kind.GARBAGE


async def test_proxy(provider) -> None:
    """A proxy that refuses, and one that is not there, are connections that failed."""
    async with serving(answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")) as place:
        url = provider.url.replace("http:", "https:")
        error = await failure(url, proxy=f"http://{place}")
    assert error.kind is Kind.CONNECT
    assert error.message == 'The proxy of the upstream "u" made no tunnel: it answered with status 403.'
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{bound.getsockname()[1]}"
        error = await failure(provider.url, proxy=gone)
    assert error.kind is Kind.CONNECT
    assert error.message == 'The proxy of the upstream "u" could not be connected: connection refused (ECONNREFUSED).'


async def test_no_descriptor_left(provider) -> None:
    """The gateway itself has no descriptor left: neither the upstream's nor its name's fault."""
    for base_url in (provider.url, "http://localhost:1/v1", "http://upstream.invalid/v1"):
        with no_descriptors():
            error = await failure(base_url)
        assert (error.kind, error.http_status, error.retry_after) == (Kind.EXHAUSTED, 503, 1.0)
        assert error.message == 'The gateway has no socket left for the upstream "u": too many open files (EMFILE).'
        assert not error.trait.breaks


@pytest.mark.parametrize("left", [0, 1])
async def test_no_descriptor_left_for_one_of_two_addresses(monkeypatch, left) -> None:
    """One address refuses, and for the other there is no descriptor: the upstream may well be there."""
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 1)) for n in (1, 2)]
    sockets = itertools.count()

    def limited(*kind: Any) -> socket.socket:
        if next(sockets) == left:
            raise OSError(errno.EMFILE, "Too many open files")
        return socket.socket(*kind)

    async def resolved(*_: Any, **__: Any) -> list[Any]:
        return addresses

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    monkeypatch.setattr(connecting, "socket", SimpleNamespace(**{**vars(socket), "socket": limited}))
    error = await failure("http://two.example/v1")
    assert error.kind is Kind.EXHAUSTED
    assert error.message == 'The gateway has no socket left for the upstream "u": too many open files (EMFILE).'


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open no further descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


REASONS = [
    (ConnectionRefusedError(errno.ECONNREFUSED, "x 10.0.0.1"), "connection refused (ECONNREFUSED)", False),
    (OSError(errno.EHOSTUNREACH, "10.0.0.1"), "no route to host (EHOSTUNREACH)", False),
    (OSError(errno.ENETUNREACH, "10.0.0.1"), "network is unreachable (ENETUNREACH)", False),
    (OSError(errno.ETIMEDOUT, "10.0.0.1"), "connection timed out (ETIMEDOUT)", False),
    (OSError(errno.EMFILE, ""), "too many open files (EMFILE)", True),
    (OSError(errno.ENFILE, ""), "too many open files in system (ENFILE)", True),
    (OSError(errno.ENOBUFS, ""), "no buffer space available (ENOBUFS)", True),
    (OSError(errno.ENOMEM, ""), "cannot allocate memory (ENOMEM)", True),
    (OSError(errno.EADDRNOTAVAIL, ""), "cannot assign requested address (EADDRNOTAVAIL)", True),
    (RuntimeError("can't start new thread"), "can't start new thread", True),
    (RuntimeError("Session is closed"), None, False),
    (socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"), "memory allocation failure (EAI_MEMORY)", True),
    (OSError(None, "Multiple exceptions: 10.0.0.1, 10.0.0.2"), None, False),
    (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "temporary failure (EAI_AGAIN)", False),
    (socket.gaierror(socket.EAI_NONAME, "Name not known"), "name not known (EAI_NONAME)", False),
    (ssl.SSLError(1, "[SSL: X] 10.0.0.1"), None, False),
    (ValueError("10.0.0.1"), None, False),
    (None, None, False),
]


@pytest.mark.parametrize(("error", "reason", "own"), REASONS)
def test_reasons(error, reason, own) -> None:
    """Every failure of the system has words without an address. Those of the gateway itself are told apart."""
    assert reason_of(error) == reason
    assert is_own(error) is own


# --- statuses --------------------------------------------------------------------------------------------------------


async def test_status(provider, model) -> None:
    """An error status brings its error object, its code and its `Retry-After`."""
    error = {"message": "Slow down", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    await provider.script(model, {"status": 429, "error": error, "headers": {"Retry-After": "7"}})
    failed = await failure(provider.url, model)
    assert (failed.kind, failed.status, failed.message) == (Kind.RATE_LIMIT, 429, "Slow down")
    assert (failed.code, failed.retry_after) == ("rate_limit_exceeded", 7.0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "Sun, 06 Nov 1994 08:49:37 GMT"}, 0.0),
        ({"Retry-After": "3", "Retry-After-Ms": "1500"}, 1.5),
        ({"Retry-After": "3", "Retry-After-Ms": "soon"}, 3.0),
        ({"Retry-After-Ms": "-5"}, 0.0),
        ({"Retry-After": "86401"}, 3600.0),
        ({"Retry-After": "1" + "0" * 20}, 3600.0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3600.0),
        ({"Retry-After-Ms": "1e300"}, 3600.0),
        ({"Retry-After": "1e999"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
async def test_retry_after(provider, model, headers, seconds) -> None:
    """`Retry-After` is read in both its forms, OpenAI's milliseconds before it. More than a day is a day."""
    await provider.script(model, {"status": 503, "error": {"message": "x"}, "headers": headers})
    failed = await failure(provider.url, model)
    assert (failed.kind, failed.retry_after) == (Kind.OVERLOADED, seconds)


async def test_refused_key(provider, model) -> None:
    """A 401 that quotes the gateway's key is passed on without its message."""
    await provider.script(model, {"status": 401, "error": {"message": f"Incorrect API key provided: {SECRET}"}})
    failed = await failure(provider.url, model)
    assert (failed.kind, failed.http_status) == (Kind.AUTH, 502)


async def test_page_of_a_proxy(provider, model) -> None:
    """An HTML page instead of an error object is not passed on."""
    await provider.script(model, {"status": 502, "error": "<html><h1>502 Bad Gateway</h1></html>"})
    failed = await failure(provider.url, model)
    assert (failed.kind, failed.message) == (Kind.OVERLOADED, "The upstream answered with status 502.")


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b"{", 1000),
        (b"", 0),
        (b"\xff\xfe", 2),
        (b'{"error":{"message":5}}', 23),
        (b'{"error":{"message":"\\ud83d"}}', 30),
        (b"[" * 50_000, 50_000),
        (b"x" * 200_000, 200_000),
    ],
)
async def test_error_body_that_is_broken(body, length) -> None:
    """If the body of an error is cut, huge, no JSON or no text, its status is still passed on."""
    async with serving(answering(b"HTTP/1.1 500 Oops\r\nContent-Length: %d\r\n\r\n%b" % (length, body))) as place:
        failed = await failure(f"http://{place}/v1")
    assert (failed.kind, failed.status) == (Kind.OVERLOADED, 500)
    assert len(failed.message.encode()) <= MAX_MESSAGE


async def test_redirect() -> None:
    """A redirect is not followed, with the key in the request: it is an error of the upstream's."""
    head = b"HTTP/1.1 307 Moved\r\nLocation: http://127.0.0.1:9/v1\r\nContent-Length: 0\r\n\r\n"
    async with serving(answering(head)) as place:
        failed = await failure(f"http://{place}/v1")
    assert (failed.kind, failed.http_status) == (Kind.OVERLOADED, 502)


# --- in the body -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "script",
    [
        {"reset_after": 3},
        {"cut_after": 3},
        {"reset_in_utf8_at": 3, "text": "é " * 20},
        {"content_length": "lie_long"},
    ],
)
async def test_cut_in_the_body(provider, model, script) -> None:
    """A RST, a FIN before the end, and a body shorter than its length are a cut stream."""
    await provider.script(model, {"rate": 200, **script})
    assert (await failure(provider.url, model)).kind is Kind.CUT


async def test_bad_chunk_in_the_body() -> None:
    """Framing that breaks in the middle of a body is a failure as well."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
    async with serving(answering(head)) as place:
        assert (await failure(f"http://{place}/v1")).kind in (Kind.CUT, Kind.GARBAGE)


async def test_whole_body(provider, model) -> None:
    """If nothing goes wrong, the whole body comes."""
    await provider.script(model, {"tokens": 3})
    assert (await ask(provider.url, model)).endswith(b"data: [DONE]\n\n")


# --- what no socket does on demand -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "in_body", "kind"),
    [
        (RuntimeError("Session is closed"), False, Kind.GARBAGE),
        (ValueError("not a URL"), False, Kind.GARBAGE),
        (ValueError("bad chunk"), True, Kind.GARBAGE),
        (BrokenPipeError(), False, Kind.RESET),
        (ConnectionResetError(), True, Kind.CUT),
        (TimeoutError(), False, Kind.CONNECT_TIMEOUT),
        (ssl.SSLError(), True, Kind.CUT),
        (openai.OpenAIError("x"), False, Kind.GARBAGE),
    ],
)
def test_bare_exceptions(error, in_body, kind) -> None:
    """Every exception that an attempt catches has a kind, with and without the SDK's exception around it."""
    assert isinstance(error, FOREIGN)
    assert translate(error, in_body=in_body).kind is kind
