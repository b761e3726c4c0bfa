"""Traces, sent to a real receiver of OTLP over HTTP by a gateway in a process of its own."""

import asyncio
import hashlib
import signal
import socket
import time

import pytest
from behind_tls import behind_tls
from certificates import certify
from collector import attributes, collecting
from gateway import OwnProcess, own_process
from wire import complete

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
STATUS_ERROR = 2
TOKEN = "CANARY-TOKEN"
KEY = "sk-CANARY-KEY-0123456789"


async def over(gateway: OwnProcess) -> None:
    """End the gateway, which sends the rest of its spans."""
    gateway.signal(signal.SIGTERM)
    assert await gateway.ended() == 0


async def test_one_stream(provider, model, tmp_path) -> None:
    """A stream's span follows the request's. Below it is the attempt's, and below that the phases', with durations."""
    certificate = certify(tmp_path)
    trust = {"ca_file": str(certificate.certificate)}
    await provider.script(model, {"tokens": 5, "ttft": 0.3, "rate": 20})
    async with (
        collecting() as (collector, environ),
        behind_tls(provider.url, certificate) as url,
        own_process(url, upstream=trust, environ=environ) as gateway,
    ):
        answer = await complete(gateway.root, model, headers=PARENT)
        await over(gateway)
    assert collector.services == {"sluiceway"}
    [stream] = collector.named("stream")
    [attempt] = collector.named("attempt")
    assert (stream.trace_id.hex(), stream.parent_span_id.hex()) == (TRACE, SPAN)
    assert attempt.parent_span_id == stream.span_id
    known = attributes(stream)
    assert known["sluiceway.stream.id"] == answer.headers["x-stream-id"]
    assert known["gen_ai.request.model"] == model
    assert known["gen_ai.usage.output_tokens"] == 5
    assert (known["sluiceway.state"], known["sluiceway.attempts"], known["sluiceway.recoveries"]) == ("complete", 1, 0)
    assert attributes(attempt)["sluiceway.target"] == f"local/{model}"
    below = {span.name: span for span in collector.spans if span.parent_span_id == attempt.span_id}
    assert below.keys() >= {"headers", "first_token", "tokens"}
    assert 0.25e9 < below["first_token"].end_time_unix_nano - below["first_token"].start_time_unix_nano < 3e9
    assert stream.start_time_unix_nano <= attempt.start_time_unix_nano < attempt.end_time_unix_nano
    assert abs(stream.end_time_unix_nano / 1e9 - time.time()) < 60
    [seen] = await provider.seen(model)
    assert seen["headers"]["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert seen["headers"]["tracestate"] == "vendor=1"
    assert seen["headers"]["x-request-id"] == known["sluiceway.request.id"]


async def test_connecting(provider, model, tmp_path) -> None:
    """The attempt that waits for a connection has a span for each step of connecting, one after the other."""
    certificate = certify(tmp_path)
    trust = {"ca_file": str(certificate.certificate)}
    await provider.script(model, {"tokens": 1, "ttft": 0.5})
    async with (
        collecting() as (collector, environ),
        behind_tls(provider.url, certificate, handshake=0.2) as url,
        own_process(url, upstream=trust, environ=environ) as gateway,
    ):
        # Two requests at once, since one connection is kept warm.
        await asyncio.gather(complete(gateway.root, model), complete(gateway.root, model))
        await over(gateway)
    made = {span.name: span for span in collector.spans if span.name in ("connect", "tls")}
    assert made["connect"].end_time_unix_nano <= made["tls"].start_time_unix_nano + 1000
    assert made["tls"].end_time_unix_nano - made["tls"].start_time_unix_nano > 0.18e9
    assert {span.parent_span_id for span in made.values()} <= {span.span_id for span in collector.named("attempt")}


async def test_a_recovered_stream(provider, model) -> None:
    """Each attempt has a span. That of the broken one names its error, and that of the stream counts the recoveries."""
    await provider.script(model, {"text": "a b c d", "cut_after": 2}, {"text": "a b c d"})
    recovery = {"strategy": "restart", "backoff": 0.01}
    async with (
        collecting() as (collector, environ),
        own_process(provider.url, environ=environ, recovery=recovery) as gateway,
    ):
        await complete(gateway.root, model)
        await over(gateway)
    [stream] = collector.named("stream")
    broken, whole = collector.named("attempt")
    assert len(stream.parent_span_id) == 0
    assert (broken.status.code, attributes(broken)["error.type"]) == (STATUS_ERROR, "upstream_cut")
    assert whole.status.code != STATUS_ERROR
    assert stream.status.code != STATUS_ERROR
    assert attributes(stream)["sluiceway.recoveries"] == 1
    parents = [seen["headers"]["traceparent"].split("-")[2] for seen in await provider.seen(model)]
    assert parents == [broken.span_id.hex(), whole.span_id.hex()]


async def test_nothing_that_was_said(provider, model, monkeypatch) -> None:
    """No span holds a prompt, an answer, a token or a key, also if an upstream quotes them in its errors."""
    quoted = {"status": 500, "error": {"message": f"CANARY-PROMPT {KEY}"}}
    await provider.script(model, {"text": "CANARY-ANSWER it is"}, quoted, {"text": "CANARY-ANSWER", "garbage_at": 1})
    keys = [{"name": "web", "sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}]
    messages = [{"role": "user", "content": "CANARY-PROMPT"}]
    async with collecting() as (collector, environ):
        environ |= {"TEST_KEY": KEY}
        async with own_process(
            provider.url, environ=environ, keys=keys, upstream={"api_key_env": "TEST_KEY"}
        ) as gateway:
            for _ in range(3):
                await complete(gateway.root, model, headers={"Authorization": f"Bearer {TOKEN}"}, messages=messages)
            await over(gateway)
    assert len(collector.named("stream")) == 3
    assert {seen["headers"]["authorization"] for seen in await provider.seen(model)} == {f"Bearer {KEY}"}
    assert b"CANARY" not in collector.raw


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}])
async def test_switched_off(provider, model, off) -> None:
    """The standard's variables switch traces off: there is no span, and the trace's header is passed on unchanged."""
    async with collecting() as (collector, environ), own_process(provider.url, environ=environ | off) as gateway:
        await complete(gateway.root, model, headers=PARENT)
        await over(gateway)
    assert collector.spans == []
    [seen] = await provider.seen(model)
    assert seen["headers"]["traceparent"] == PARENT["traceparent"]


async def test_a_collector_that_hangs(provider, model) -> None:
    """Streams do not notice it, and the end of the process waits only briefly."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}"}
        async with own_process(provider.url, environ=environ) as gateway:
            assert (await complete(gateway.root, model)).status == 200
            started = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0
            assert time.monotonic() - started < 10


async def test_without_the_extra(provider, model, tmp_path) -> None:
    """If OpenTelemetry is not installed, one warning says so, and everything else works."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").touch()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "PYTHONPATH": str(tmp_path)}
    async with own_process(provider.url, environ=environ, fresh=True) as gateway:
        assert (await complete(gateway.root, model)).status == 200
    [said] = [line for line in gateway.lines if isinstance(line, dict) and line["level"] == "warning"]
    assert "sluiceway[otel]" in said["event"]
