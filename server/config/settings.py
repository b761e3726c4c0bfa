"""The settings: every key with its type, unit, range and default. ``server.config.check`` reads them from a file."""

from __future__ import annotations

import fnmatch
import functools
import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema, WrapValidator
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import ValidatorFunctionWrapHandler as Inner

YEAR = 31_536_000.0  # seconds, the longest time that a key takes: event loops overflow on much longer timers
BILLION = 1_000_000_000
TERABYTE = 1 << 40
PATTERN_MARKS = r"[][?(){}|^$\\]"  # of shells and regular expressions


# Types. Each has one phrase for the values that it takes. That phrase is the message for every wrong value.


def _wants(wanted: str, test: Callable[[Any], Any] = lambda value: value) -> WrapValidator:
    """Return a validator whose only error is the phrase ``wanted``.

    It replaces the errors of the type that it annotates, and those of ``test``, which gets the value after that type.
    """

    def validate(value: object, inner: Inner) -> object:
        try:
            return test(inner(value))
        except ValueError:
            raise PydanticCustomError("wanted", "{wanted}", {"wanted": wanted}) from None

    return WrapValidator(validate)


def _like(pattern: str, wanted: str) -> WrapValidator:
    """Return a validator for text that matches ``pattern`` as a whole."""

    def test(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return _wants(wanted, test)


def _url(value: str) -> str:
    """Return an http(s) URL without its trailing slash."""
    url = urlsplit(value)  # raises ValueError if an IPv6 host is bad; `url.port` does if the port is
    if not re.fullmatch(r"(?i)https?://[!-~]+", value) or not url.hostname or url.port == 0 or set("?#") & set(value):
        raise ValueError
    return value.rstrip("/")


def _base_url(value: str) -> str:
    if "@" in value or (url := _url(value)).endswith("/chat/completions"):
        raise ValueError
    return url


def _model_name(value: str) -> str:
    """Return a name, or a pattern if a "*" is in it. Beside a "*", marks of other pattern languages are a mistake."""
    if not re.fullmatch(r"[!-~]+", value) or ("*" in value and re.search(rf"\*\*|{PATTERN_MARKS}", value)):
        raise ValueError
    return value


def _host(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", value):
        ipaddress.ip_address(value)
    return value


@functools.lru_cache(maxsize=256)  # a gateway without keys asks this for every request, with few different names
def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own: 127.0.0.0/8, ::1 or localhost."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def matches(pattern: str, name: str) -> bool:
    """Whether a model's name is `pattern`, or matches it as a whole. Upper and lower case count."""
    return name == pattern or ("*" in pattern and fnmatch.fnmatchcase(name, pattern))


@dataclass(frozen=True, slots=True)
class Target:
    """One place to send a request to: an upstream's name, and its model. None keeps the name that the client sent."""

    upstream: str
    model: str | None

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read ``"upstream/model"`` or ``"upstream/*"``; raise ValueError for anything else."""
        if isinstance(text, cls):
            return text
        if not isinstance(text, str) or not re.fullmatch(r"[!-.0-~]+/(\*|[!-)+-~]+)", text):
            raise ValueError
        upstream, _, model = text.partition("/")
        return cls(upstream, None if model == "*" else model)

    def __str__(self) -> str:
        return f"{self.upstream}/{self.model or '*'}"


def _whole(low: int, high: int, unit: str) -> tuple[Any, Any]:
    return Field(ge=low, le=high), _wants(f"a whole number from {low} to {high}{unit}")


Port = Annotated[int, *_whole(0, 65535, " (a port; 0: any free one)")]
Count = Annotated[int, *_whole(1, BILLION, "")]
Times = Annotated[int, *_whole(0, 1000, "")]
Bytes = Annotated[int, *_whole(1, TERABYTE, " (bytes)")]
BufferBytes = Annotated[int, *_whole(1024, 1 << 30, " (bytes)")]
Seconds = Annotated[float, Field(gt=0, le=YEAR), _wants("seconds above 0, at most a year")]
SecondsOrZero = Annotated[float, Field(ge=0, le=YEAR), _wants("seconds from 0, at most a year")]
Flag = Annotated[bool, _wants("true or false")]
Text = Annotated[str, _like(r"[^\x00-\x1f\x7f]+", "text, not empty, without control characters")]
Name = Annotated[str, _like(r"[!-.0-~]+", 'a name: visible ASCII without spaces and "/"')]
ModelName = Annotated[
    str,
    _wants(
        'a model name without spaces, or a pattern such as "gpt-*", in which only "*" stands for other characters',
        _model_name,
    ),
]
Entry = Annotated[str, _like(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", '"module:function"')]
FunctionName = Annotated[str, _like(r"[A-Za-z0-9_-]{1,64}", "a function name: 1 to 64 letters, digits, _ and -")]
Variable = Annotated[str, _like(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")]
HeaderName = Annotated[
    str,
    _like(
        r"(?i)(?!(authorization|connection|content-length|transfer-encoding)$)[a-z0-9!#$%&'*+.^_`|~-]+",
        "an HTTP header name, but not that of the key (api_key_env) or of the connection",
    ),
]
AnyHeaderName = Annotated[
    str,
    _like(
        r"(?i)(?!(connection|content-length|host|transfer-encoding)$)[a-z0-9!#$%&'*+.^_`|~-]+",
        "an HTTP header name, but not one of the connection",
    ),
]
HeaderValue = Annotated[str, _like(r"[ -~]*", "printable ASCII")]
QueryName = Annotated[str, _like(r"[!-~]+", "the name of a query parameter: visible ASCII without spaces")]
QueryValue = Annotated[str, _like(r"[ -~]*", "text in printable ASCII, as it is before it is encoded")]
Auth = Annotated[Literal["bearer", "api-key", "x-api-key"], _wants('"bearer", "api-key" or "x-api-key"')]
Sha256 = Annotated[str, _like(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits, the SHA-256 of the token")]
Host = Annotated[str, _wants("an IP address or a host name, without brackets and port", _host)]
Origin = Annotated[str, _like(r"\*|https?://[A-Za-z0-9.\[\]:-]+", '"https://host[:port]", or "*"')]
Url = Annotated[str, _wants('"http(s)://host[:port][/path]" without query', _url)]
BaseUrl = Annotated[str, _wants('"http(s)://host[:port]/v1" without user, query or "/chat/completions"', _base_url)]
REDIS_URL = r"(rediss?|unix)://[!-~]+|rediss?\+sentinel://[!-~]*[!-.0-~]/[!-.0->@-~]+(/\d*)?(\?[!-~]*)?"
RedisUrl = Annotated[
    str,
    _like(REDIS_URL, '"redis://…", "rediss://…", "unix://…" or "redis+sentinel://host:port,host:port/service/0"'),
]
EventLoop = Annotated[Literal["uvloop", "asyncio"], _wants('"uvloop" or "asyncio"')]
OnDisconnect = Annotated[Literal["cancel", "continue"], _wants('"cancel" or "continue"')]
Continuation = Annotated[
    Literal["none", "assistant", "continue_final_message", "prefix", "partial", "user_turn"],
    _wants('"none", "assistant", "continue_final_message", "prefix", "partial" or "user_turn"'),
]
Background = Annotated[Literal["asked", "always", "never"], _wants('"asked", "always" or "never"')]
TargetText = Annotated[
    Target,
    BeforeValidator(Target.parse),
    _wants('"upstream/model" or "upstream/*"'),
    PlainSerializer(str),
    WithJsonSchema({"type": "string"}),
]
# TOML has arrays, not tuples. So a list becomes a tuple; its items are still checked strictly.
ARRAY = Field(strict=False)


class Table(BaseModel):
    """A TOML table: frozen, with strict types and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Server(Table):
    """``[server]``: the listener and its limits."""

    host: Host = Field("127.0.0.1", description="Address to listen on. Any address but a loopback one needs [[keys]].")
    port: Port = Field(8080, description="TCP port to listen on. 0 takes any free port.")
    max_streams: Count = Field(10_000, description="Limit of live streams. Past it: 429 with Retry-After.")
    max_body_bytes: Bytes = Field(8_388_608, description="Limit of one request body, in bytes. Past it: 413.")
    max_upload_bytes: Bytes = Field(
        268_435_456, description="Limit of one multipart body, such as an audio file, in bytes. Past it: 413."
    )
    max_held_bytes: Bytes = Field(
        268_435_456,
        description="Limit of all request bodies that arrive or belong to live streams, in bytes; one key has half of "
        "it. Past it: 429 with Retry-After.",
    )
    shutdown_grace: SecondsOrZero = Field(30.0, description="Seconds that running streams have after SIGTERM.")
    drain_notice: SecondsOrZero = Field(
        5.0,
        description="Of these, seconds in which /readyz already says 503 and new generations are still taken.",
    )
    event_loop: EventLoop = Field("uvloop", description='Event loop: "uvloop" or "asyncio".')
    cors_origins: Annotated[tuple[Origin, ...], ARRAY] = Field(
        (), description='Origins of other sites whose pages may use the gateway. "*" (any site) needs [[keys]].'
    )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the listener."""
        return is_loopback(self.host)


class Flow(Table):
    """``[flow]``: transport-level flow control of one client connection."""

    drain_timeout: Seconds = Field(
        30.0,
        description="Seconds that a write may be blocked without one acknowledged byte. Then the client is detached.",
    )
    max_lag_bytes: BufferBytes = Field(
        65_536, description="Bytes that the upstream may be ahead of the fastest reader. Then the upstream is paused."
    )
    send_buffer_bytes: BufferBytes = Field(
        65_536, description="Target for the send buffers of one connection, kernel and user space together, in bytes."
    )
    heartbeat_interval: Seconds = Field(15.0, description="Seconds of silence after which a heartbeat is sent.")
    early_open_after: SecondsOrZero = Field(
        5.0,
        description="Seconds without a first token after which the response opens and heartbeats begin. 0: at once.",
    )


class Streams(Table):
    """``[streams]``: how long a stream lives and stays readable."""

    on_disconnect: OnDisconnect = Field(
        "cancel",
        description='What a stream does when its last reader leaves: "cancel", or "continue" for linger seconds.',
    )
    linger: SecondsOrZero = Field(60.0, description="Seconds that a stream without a reader waits for one.")
    total_timeout: Seconds = Field(3600.0, description="Seconds that a whole stream may take.")
    retention: SecondsOrZero = Field(600.0, description="Seconds that a stream can still be read after its ending.")
    max_stream_bytes: Bytes = Field(
        16_777_216, description="Limit of one stream's log, in bytes. Past it the stream fails with stream_too_large."
    )


class Responses(Table):
    """``[responses]``: stored responses (`/v1/responses`)."""

    retention: SecondsOrZero = Field(
        3600.0,
        description="Seconds that a stored response is kept after its ending. previous_response_id reaches as far.",
    )


class Store(Table):
    """``[store]``: where the logs are kept."""

    kind: Name = Field("memory", description='A registered store: "memory", "sqlite" or "redis".')
    path: Text = Field("data/streams.db", description="Database file, relative to the working directory (sqlite).")
    url: RedisUrl = Field(
        "redis://127.0.0.1:6379/0", description="Address of Redis, or of its sentinels: see scaling.md (redis)."
    )
    url_env: Variable | None = Field(
        None, description="Environment variable that holds the address with its password. It wins over url (redis)."
    )
    max_bytes: Bytes = Field(
        1_073_741_824, description="Limit of all logs together, in bytes. The oldest ended streams are deleted first."
    )
    lease: Seconds = Field(
        10.0, description="Seconds after which an orphaned stream can be taken over (sqlite, redis)."
    )

    def resolved(self, environ: Mapping[str, str]) -> Self:
        """Return this table with the address that `url_env` names."""
        return self.model_copy(update={"url": environ.get(self.url_env, self.url)}) if self.url_env else self


class Upstream(Table):
    """``[[upstreams]]``: one OpenAI-compatible server."""

    name: Name = Field(description="Unique name, used in targets.")
    base_url: BaseUrl = Field(description="URL below which /chat/completions is found.")
    api_key_env: Variable | None = Field(
        None, description="Environment variable that holds the API key. If it is not set, no key is sent."
    )
    api: Name = Field("chat", description='What it speaks, such as "chat": OpenAI\'s chat completions.')
    auth: Auth = Field(
        "bearer",
        description='How the key is sent: as a bearer token, or in the header "api-key" (Azure) or "x-api-key".',
    )
    organization_env: Variable | None = Field(None, description="Environment variable that holds the organization.")
    headers: dict[HeaderName, HeaderValue] = Field({}, description="Further request headers.")
    header_env: dict[HeaderName, Variable] = Field(
        {}, description="Further request headers with secrets: header = environment variable that holds its value."
    )
    query: dict[QueryName, QueryValue] = Field(
        {}, description='Query parameters of every request, such as { api-version = "2024-10-21" }.'
    )
    proxy: Url | None = Field(None, description="HTTP proxy through which it is reached.")
    ca_file: Text | None = Field(None, description="PEM file with the certificates to trust instead of the system's.")
    connect_timeout: Seconds = Field(5.0, description="Seconds for DNS, TCP and TLS.")
    ttft_timeout: Seconds = Field(30.0, description="Seconds of one attempt, from the sent request to the first token.")
    idle_timeout: Seconds = Field(
        30.0, description="Longest pause between two tokens, in seconds. SSE comments do not count as tokens."
    )
    last_resort_timeout: Seconds = Field(
        300.0, description="Both limits, in seconds, while no other target is left to ask: giving up would help nobody."
    )
    continuation: Continuation = Field("none", description="How it continues a partial answer: see recovery.md.")
    usage: Flag = Field(True, description="Ask it for the usage of streams.")
    background: Background = Field(
        "asked",
        description="If it speaks Responses: which streams run in its background, so that they are resumed there after "
        'a cut. "asked": those whose client asks for that; "always": all but those with store = false; "never".',
    )

    def api_key(self, environ: Mapping[str, str]) -> str | None:
        """Return the API key, or None if no variable is named, or if the variable is unset or empty."""
        return (environ.get(self.api_key_env) or None) if self.api_key_env else None

    def organization(self, environ: Mapping[str, str]) -> str | None:
        """Return the organization, or None if no variable is named, or if the variable is unset or empty."""
        return (environ.get(self.organization_env) or None) if self.organization_env else None

    def secret_headers(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of ``header_env`` whose variables are set and not empty."""
        return {name: value for name, variable in self.header_env.items() if (value := environ.get(variable))}


class Model(Table):
    """``[[models]]``: a model name that clients may ask for, and the targets that answer it."""

    name: ModelName = Field(description='What clients ask for; "gpt-*" is a pattern, and the longest match wins.')
    targets: Annotated[tuple[TargetText, ...], ARRAY, Field(min_length=1)] = Field(
        description='"upstream/model", tried in this order. "upstream/*" sends the name that the client asked for.'
    )
    ttft_timeout: Seconds | None = Field(None, description="For this model, instead of that of its upstreams.")
    idle_timeout: Seconds | None = Field(None, description="For this model, instead of that of its upstreams.")
    last_resort_timeout: Seconds | None = Field(None, description="For this model, instead of that of its upstreams.")

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for others."""
        return "*" in self.name

    def matches(self, name: str) -> bool:
        """Whether this is the name of a model, or a pattern that it matches."""
        return matches(self.name, name)


class Recovery(Table):
    """``[recovery]``: what the gateway does when an attempt fails."""

    strategy: Name = Field("auto", description="A registered strategy: none, retry, restart, continue or auto.")
    max_retries: Times = Field(2, description="Attempts that a target gets in one stream after its first.")
    max_recoveries: Times = Field(
        3, description="Recoveries of one stream after content was delivered, over all targets."
    )
    backoff: SecondsOrZero = Field(
        0.5, description="First delay in seconds. It doubles each time and is jittered. Retry-After overrides it."
    )
    hedge_after: SecondsOrZero = Field(
        0.0, description="Seconds without a first token after which a second target is asked, too. 0: never."
    )
    breaker_failures: Count = Field(5, description="Consecutive failures that open a target's circuit.")
    breaker_reset: Seconds = Field(10.0, description="Seconds after which an open circuit lets one probe through.")


class Key(Table):
    """``[[keys]]``: one owner of streams, and the hash of its token."""

    name: Name = Field(description="Unique name of the owner.")
    models: Annotated[tuple[ModelName, ...], ARRAY] = Field(
        ("*",), description="Names or patterns of the models that it may ask for. For it there are no others."
    )
    sha256: Sha256 = Field(description="SHA-256 of the client's bearer token, 64 lower-case hexadecimal digits.")
    admin: Flag = Field(
        False, description="Whether it may see every owner's streams, the metrics and all of the stats."
    )
    max_streams: Count = Field(100, description="Limit of this owner's live streams. Past it: 429.")
    requests_per_minute: Count = Field(600, description="Limit of this owner's requests per minute. Past it: 429.")


class Tools(Table):
    """``[tools]``: functions that the server itself runs for a model."""

    max_rounds: Count = Field(8, description="Limit of the rounds of tool calls in one stream.")
    timeout: Seconds = Field(30.0, description="Seconds that one call may take.")
    max_concurrency: Count = Field(16, description="Calls that run at the same time, over all streams.")
    max_result_bytes: Bytes = Field(65_536, description="Limit of one result, in bytes. The rest is cut off.")
    functions: dict[FunctionName, Entry] = Field({}, description='The functions: name = "module:function".')


class Mcp(Table):
    """``[[mcp]]``: a server of further tools. The gateway starts it by ``command`` or reaches it at ``url``."""

    name: Name = Field(description="Unique name.")
    command: Annotated[tuple[Text, ...], ARRAY, Field(min_length=1)] | None = Field(
        None, description="The program that is started, and its arguments; instead of url."
    )
    env: dict[Variable, Text] = Field({}, description="Environment variables that the command gets.")
    env_from: Annotated[tuple[Variable, ...], ARRAY] = Field(
        (), description="Names of variables that the command gets from the gateway's environment, such as its key."
    )
    url: Url | None = Field(None, description="Address of a running server; instead of command.")
    headers: dict[HeaderName, HeaderValue] = Field({}, description="Request headers for the url.")
    header_env: dict[AnyHeaderName, Variable] = Field(
        {}, description="Request headers for the url whose values are in environment variables: header = NAME."
    )


class Preprocess(Table):
    """``[preprocess]``: functions that may change a request before it is sent: name = ``"module:function"``."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Entry] = Field(init=False)

    timeout: Seconds = Field(
        1.0, description="Seconds for all functions, which run side by side. One that is late or fails changes nothing."
    )

    @property
    def functions(self) -> dict[str, str]:
        """The functions: name to ``"module:function"``, in the order of the file."""
        return dict(self.__pydantic_extra__)


class Settings(Table):
    """The whole configuration. ``server.config.check`` makes it, and checks the rules between its keys."""

    server: Server = Server()
    flow: Flow = Flow()
    streams: Streams = Streams()
    responses: Responses = Responses()
    store: Store = Store()
    upstreams: Annotated[tuple[Upstream, ...], ARRAY] = Field(min_length=1, description="At least one [[upstreams]].")
    models: Annotated[tuple[Model, ...], ARRAY] = Field(min_length=1, description="At least one [[models]].")
    recovery: Recovery = Recovery()
    keys: Annotated[tuple[Key, ...], ARRAY] = ()
    tools: Tools = Tools()
    mcp: Annotated[tuple[Mcp, ...], ARRAY] = ()
    preprocess: Preprocess = Preprocess()

    def resolve(self, name: str) -> Model | None:
        """Return the model that a client means by ``name``, or None.

        That is the model of exactly this name, else the pattern that gives the most of it, else the first of these.
        """
        matches = [model for model in self.models if model.matches(name)]
        return max(matches, key=lambda model: (model.name == name, len(model.name.replace("*", ""))), default=None)

    def upstream(self, name: str) -> Upstream:
        """Return the upstream of this name; raise KeyError if there is none."""
        for upstream in self.upstreams:
            if upstream.name == name:
                return upstream
        raise KeyError(name)
