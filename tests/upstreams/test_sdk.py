"""The SDK's client: what it sends is the gateway's own, in both of its ways."""

import contextvars
import gc

import httpx2
import internals
import openai
import pytest
from library_changes import CHANGES

from server.config.settings import Upstream
from server.upstreams.connecting import tls_context
from server.upstreams.sdk import BUILD_REQUEST, PATH, Sdk
from server.upstreams.transport import AiohttpTransport, Outgoing

SETTINGS = Upstream(name="u", base_url="http://127.0.0.1:1/v1", headers={"X-Mine": "mine", "User-Agent": "me"})
HEADERS = {"x-request-id": "req_1"}
LEAKS = "X-Canary: CANARY\nAuthorization: CANARY\nUser-Agent: CANARY\nX-Mine: CANARY\nOpenAI-Project: CANARY"


class Answering(AiohttpTransport):
    """A transport that answers 200, and keeps what it was given to send."""

    def __init__(self) -> None:
        super().__init__(connect_timeout=1.0, tls=tls_context(None), proxy=None)
        self.sent = []

    async def send(self, outgoing):
        self.sent.append(outgoing)
        return httpx2.Response(200)


@pytest.fixture(params=["quick", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Use the SDK's private part, or, as it has changed, leave it alone."""
    if request.param == "plain":
        CHANGES["requests"][0](monkeypatch)
        monkeypatch.setattr(BUILD_REQUEST, "usable", False)
    return request.param


async def test_what_is_sent(way) -> None:
    """The body as it is, to the upstream's address, with the usual headers, the configured ones and the request's."""
    transport = Answering()
    sdk = Sdk(SETTINGS, key="sk-1", organization="org", transport=transport)
    assert internals.is_quick(sdk) is (way == "quick")
    assert (await sdk.complete(b"one", HEADERS)).status_code == 200
    assert (await sdk.complete(b"two", {})).status_code == 200
    one, two = transport.sent
    assert (str(one.url), one.body, two.body) == ("http://127.0.0.1:1/v1/chat/completions", b"one", b"two")
    assert two.headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": "Bearer sk-1",
        "connection": "keep-alive",
        "content-type": "application/json",
        "openai-organization": "org",
        "user-agent": "me",
        "x-mine": "mine",
    }
    assert one.headers == {**two.headers, **HEADERS}


async def test_nothing_of_the_environment_is_sent(way, monkeypatch) -> None:
    """Not a header that OPENAI_CUSTOM_HEADERS adds, nor one that it changes, nor any other variable of the SDK."""
    transport = Answering()
    clean = Sdk(SETTINGS, key=None, organization=None, transport=transport)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "CANARY")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", LEAKS)
    leaky = Sdk(SETTINGS, key=None, organization=None, transport=transport)
    for sdk in (clean, leaky):
        await sdk.complete(b"{}", HEADERS)
    assert transport.sent[0] == transport.sent[1]
    assert "authorization" not in transport.sent[1].headers


async def test_the_usual_headers_are_the_sdks(monkeypatch) -> None:
    """In a clean environment the SDK would send the same ones, but for what it tells of itself."""
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    seen = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={})

    settings = Upstream(name="u", base_url="http://127.0.0.1:1/v1")
    client = openai.AsyncOpenAI(
        api_key="sk-1",
        organization="org",
        base_url=settings.base_url,
        default_headers={"Accept-Encoding": "identity"},
        http_client=httpx2.AsyncClient(transport=httpx2.MockTransport(answer)),
    )
    await client.post(PATH, cast_to=httpx2.Response, body={})
    own = {"host", "content-length"}
    theirs = {name: text for name, text in seen[0].headers.items() if name not in own and "stainless" not in name}
    ours = Sdk(settings, key="sk-1", organization="org", transport=Answering()).headers
    assert {**ours, "user-agent": ""} == {**theirs, "user-agent": ""}


async def test_errors_are_the_sdks(way) -> None:
    """An error status is raised as the SDK's exception of that status."""

    class Refusing(Answering):
        async def send(self, outgoing):
            return httpx2.Response(429, json={"error": {"message": "slow down"}})

    sdk = Sdk(SETTINGS, key="sk-1", organization=None, transport=Refusing())
    with pytest.raises(openai.RateLimitError) as caught:
        await sdk.complete(b"{}", {})
    assert caught.value.body == {"message": "slow down"}


async def test_a_connection_does_not_hold_the_request(way) -> None:
    """A connection keeps the context of the task that made it: once the request is sent, nothing there refers to it."""
    contexts: list[contextvars.Context] = []

    class Connecting(Answering):
        async def send(self, outgoing):
            contexts.append(contextvars.copy_context())
            return await super().send(outgoing)

    sdk = Sdk(SETTINGS, key="sk-1", organization=None, transport=Connecting())
    await sdk.complete(b"a prompt", HEADERS)
    [context] = contexts
    held = [referent for value in context.values() for referent in (value, *gc.get_referents(value))]
    assert not any(isinstance(referent, Outgoing) for referent in held)
