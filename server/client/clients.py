"""HTTP clients to hand to OpenAI's SDK, with the SDK's own defaults."""

from typing import Any

import httpx2

from server.client.outage import Patience
from server.client.transport import AsyncResumingTransport, OnCut, ResumingTransport

SDK_DEFAULT = "https://api.openai.com/v1"
PATIENT = Patience()


def _defaults(options: dict[str, Any]) -> dict[str, Any]:
    from openai import DEFAULT_TIMEOUT  # noqa: PLC0415 — takes a second, which commands of a terminal do without

    return {"timeout": DEFAULT_TIMEOUT, "follow_redirects": True, **options}


def _limits() -> httpx2.Limits:
    from openai import DEFAULT_CONNECTION_LIMITS  # noqa: PLC0415 — the same

    return DEFAULT_CONNECTION_LIMITS


def resuming_http_client(
    *,
    base_url: str = "",
    patience: Patience = PATIENT,
    transport: httpx2.AsyncBaseTransport | None = None,
    on_cut: OnCut | None = None,
    **options: Any,
) -> httpx2.AsyncClient:
    """Return an `http_client` for `AsyncOpenAI` whose streams survive lost connections.

    `base_url` is the gateway's (`http://host:port/v1`): what the SDK would send to its default, api.openai.com, goes
    there, so a program needs no other change. `transport` is wrapped (the default is httpx2's own), `on_cut` is called
    with the last event's id at every cut, and the other options are `httpx2.AsyncClient`'s. A program that sets the
    header `X-On-Disconnect` or `Idempotency-Key` itself keeps it.
    """
    inner = transport or httpx2.AsyncHTTPTransport(limits=_limits())
    resuming = AsyncResumingTransport(inner, patience, *([on_cut] if on_cut else []))

    async def to_gateway(request: httpx2.Request) -> None:
        _retarget(request, base_url)

    client = httpx2.AsyncClient(base_url=base_url, transport=resuming, **_defaults(options))
    if base_url:
        client.event_hooks["request"].append(to_gateway)
    return client


def resuming_sync_http_client(
    *,
    base_url: str = "",
    patience: Patience = PATIENT,
    transport: httpx2.BaseTransport | None = None,
    on_cut: OnCut | None = None,
    **options: Any,
) -> httpx2.Client:
    """Return an `http_client` for `OpenAI`: the sync twin of `resuming_http_client`."""
    inner = transport or httpx2.HTTPTransport(limits=_limits())
    resuming = ResumingTransport(inner, patience, *([on_cut] if on_cut else []))

    def to_gateway(request: httpx2.Request) -> None:
        _retarget(request, base_url)

    client = httpx2.Client(base_url=base_url, transport=resuming, **_defaults(options))
    if base_url:
        client.event_hooks["request"].append(to_gateway)
    return client


def _retarget(request: httpx2.Request, base_url: str) -> None:
    """Send to the gateway what the SDK addressed to its default."""
    path = str(request.url).removeprefix(SDK_DEFAULT)
    if path.startswith("/"):
        request.url = httpx2.URL(base_url.rstrip("/") + path)
        request.headers["Host"] = request.url.netloc.decode("ascii")
