"""HTTP clients for OpenAI's SDK that resume streams. Their defaults are the SDK's own."""

from typing import Any

import httpx2

from server.client.outage import Patience
from server.client.transport import AsyncResumingTransport, OnCut, ResumingTransport

SDK_DEFAULT = "https://api.openai.com/v1"
PATIENT = Patience()


def _defaults(options: dict[str, Any]) -> dict[str, Any]:
    from openai import DEFAULT_TIMEOUT  # noqa: PLC0415 — takes a second, which the terminal commands do not wait for

    return {"timeout": DEFAULT_TIMEOUT, "follow_redirects": True, **options}


def _limits() -> httpx2.Limits:
    from openai import DEFAULT_CONNECTION_LIMITS  # noqa: PLC0415 — as above

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

    `base_url` is the gateway's address (`http://host:port/v1`). Requests that the SDK would send to its default,
    api.openai.com, go there, so a program needs no other change. `transport` is the transport to wrap; the default is
    httpx2's own. `on_cut` is called at every cut with the id of the last event. All other options are those of
    `httpx2.AsyncClient`. If the program sets the header `X-On-Disconnect` or `Idempotency-Key`, its value is kept.
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
    """If the request goes to the SDK's default address, send it to the gateway instead."""
    path = str(request.url).removeprefix(SDK_DEFAULT)
    if path.startswith("/"):
        request.url = httpx2.URL(base_url.rstrip("/") + path)
        request.headers["Host"] = request.url.netloc.decode("ascii")
