"""Every exception class of `server/`, in one tree. Most are defined here; the others say in which file of `server/`.

    Exception
    ├── SluicewayError                 what the gateway reports to a client
    │   ├── Rejected                   a request never became a stream
    │   ├── UpstreamError              one attempt at one target failed; its `Kind` says how
    │   ├── StreamError                the stream cannot go on: too large, timed out, aborted, shut down
    │   └── StoreError                 the log cannot be written or read now
    │       ├── Deleted                the log is gone
    │       ├── Fenced                 another relay has taken the stream over
    │       └── UnknownDialectError    core/dialect.py: the log is in a dialect that is not registered here
    ├── SinkError                      aio/aiohttp_internals/upstream.py: a sink has raised an error
    ├── StalledClientError             api/channel.py: a client acknowledged nothing for `drain_timeout`
    ├── NothingToRunError              config/finding.py: there is no configuration to start with
    └── ToolError                      tools/tool.py: a call of a tool gave no result, and the model is told why
    ValueError
    ├── ConfigError                    config/problems.py: the configuration cannot be used, with all reasons
    ├── LoadError                      config/plugins.py: code that a configuration names cannot be loaded
    ├── ToolSetupError                 tools/tool.py: a tool cannot be offered
    ├── PreprocessError                streams/preprocess.py: a function that changes requests cannot be used
    ├── EventTooLargeError             core/openai/sse.py: an event of an upstream is larger than the decoder allows
    └── NonsenseError                  relay/plan.py: the decision of a recovery strategy cannot be carried out
    AssertionError
    └── ImpossibleTransitionError      core/lifecycle.py: a change of state that the table forbids, so a bug of ours

An error body has OpenAI's shape (https://platform.openai.com/docs/guides/error-codes).
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class SluicewayError(Exception):
    """Root of the gateway's own errors."""


@dataclass(eq=False)
class Rejected(SluicewayError):
    """A request that was turned away before it became a stream.

    `status` is the HTTP status, `retry_after` is in seconds and becomes the `Retry-After` header.
    """

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after: float | None = None

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        return error_body(self.message, self.code, kind_of_status(self.status), self.param)


class Kind(StrEnum):
    """What failed in one attempt: the `kind` of `sluiceway_upstream_errors_total` and usually the error's code."""

    DNS = "upstream_dns"
    CONNECT = "upstream_connect"
    TLS = "upstream_tls"
    RESET = "upstream_reset"  # before a byte of the body
    CUT = "upstream_cut"  # in the body
    TRUNCATED = "upstream_truncated"  # a clean end without a finish reason
    GARBAGE = "upstream_garbage"
    EXHAUSTED = "gateway_exhausted"  # the gateway itself has no socket left: no failure of the upstream
    UNUSABLE = "upstream_unusable_answer"  # one answer's content: too large an event, too many frames without a token
    CONNECT_TIMEOUT = "upstream_connect_timeout"
    TTFT_TIMEOUT = "upstream_ttft_timeout"
    IDLE_TIMEOUT = "upstream_idle_timeout"
    AUTH = "upstream_auth"
    RATE_LIMIT = "upstream_rate_limit"  # 429, 498: a moment later the request may pass
    QUOTA = "upstream_quota"  # 402, or 429 with words: the account is empty, or used up for today
    OVERLOADED = "upstream_server_error"  # 5xx
    REQUEST_TIMEOUT = "upstream_request_timeout"  # 408
    CONFLICT = "upstream_conflict"  # 409
    NOT_READY = "upstream_not_ready"  # 421, 423, 424, 425, 499: something behind the target failed this time
    CONTEXT_LENGTH = "context_length_exceeded"
    CONTENT_POLICY = "content_policy_violation"
    TOO_LARGE = "upstream_request_too_large"  # 413: another target may take more
    REFUSED = "upstream_refused"  # 404, 405, 410, 412, 451, …: this target cannot, another one perhaps can
    BAD_REQUEST = "upstream_bad_request"  # any other 4xx
    IN_BAND = "upstream_error"  # an error event in a 200 stream
    NO_TARGET = "no_target"  # nobody was asked: the circuits are open
    DIVERGED = "recovery_diverged"  # a restart gave another text than the delivered one


@dataclass(frozen=True, slots=True)
class Trait:
    """What a Kind means for recovery, for the target's circuit and for the client.

    Another attempt may help at the `same` target, or at an `other` one. `breaks`: the circuit counts it as a failure.
    `suspect`: the request itself may have caused it, so that the circuit wants several different ones. `status` is the
    HTTP status for a client whose response has not opened.
    """

    same: bool
    other: bool
    breaks: bool
    status: int
    suspect: bool = False


# One row per kind. Recovery, circuits and HTTP statuses all read this table, and nothing else.
TRAITS: dict[Kind, Trait] = {
    Kind.DNS: Trait(same=True, other=True, breaks=True, status=502),
    Kind.CONNECT: Trait(same=True, other=True, breaks=True, status=502),
    Kind.TLS: Trait(same=False, other=True, breaks=True, status=502),
    Kind.RESET: Trait(same=True, other=True, breaks=True, status=502),
    Kind.CUT: Trait(same=True, other=True, breaks=True, status=502, suspect=True),
    Kind.TRUNCATED: Trait(same=True, other=True, breaks=True, status=502, suspect=True),
    Kind.GARBAGE: Trait(same=True, other=True, breaks=True, status=502, suspect=True),
    Kind.UNUSABLE: Trait(same=True, other=True, breaks=False, status=502),
    Kind.EXHAUSTED: Trait(same=True, other=True, breaks=False, status=503),
    Kind.CONNECT_TIMEOUT: Trait(same=False, other=True, breaks=True, status=504),
    Kind.TTFT_TIMEOUT: Trait(same=False, other=True, breaks=True, status=504),
    Kind.IDLE_TIMEOUT: Trait(same=True, other=True, breaks=True, status=504),
    Kind.AUTH: Trait(same=False, other=True, breaks=False, status=502),
    Kind.RATE_LIMIT: Trait(same=True, other=True, breaks=False, status=429),
    Kind.QUOTA: Trait(same=False, other=True, breaks=False, status=429),
    Kind.OVERLOADED: Trait(same=True, other=True, breaks=True, status=502, suspect=True),
    Kind.REQUEST_TIMEOUT: Trait(same=True, other=True, breaks=False, status=504),
    Kind.CONFLICT: Trait(same=True, other=True, breaks=False, status=409),
    Kind.NOT_READY: Trait(same=True, other=True, breaks=False, status=502),
    Kind.CONTEXT_LENGTH: Trait(same=False, other=True, breaks=False, status=400),
    Kind.CONTENT_POLICY: Trait(same=False, other=False, breaks=False, status=400),
    Kind.TOO_LARGE: Trait(same=False, other=True, breaks=False, status=413),
    Kind.REFUSED: Trait(same=False, other=True, breaks=False, status=502),
    Kind.BAD_REQUEST: Trait(same=False, other=False, breaks=False, status=400),
    Kind.IN_BAND: Trait(same=True, other=True, breaks=True, status=502, suspect=True),
    Kind.NO_TARGET: Trait(same=True, other=True, breaks=False, status=503),
    Kind.DIVERGED: Trait(same=False, other=True, breaks=False, status=502),
}


@dataclass(eq=False)
class UpstreamError(SluicewayError):
    """One attempt failed.

    `status`, `code`, `type` and `param` are the upstream's own, or None if it gave none. `retry_after` is in seconds.
    `reason` is what the system or TLS says of a failed connection; unlike `message` it never has the upstream's words.
    `request_id` is the upstream's id of the request. `upstream` says who failed: its name and target.
    `places` is what the upstream says in places of its own, by their names, such as `metadata` and `innererror`.
    """

    kind: Kind
    message: str
    status: int | None = None
    code: str | None = None
    type: str | None = None
    param: str | None = None
    retry_after: float | None = None
    reason: str | None = None
    request_id: str | None = None
    upstream: tuple[str, str] | None = None
    places: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def trait(self) -> Trait:
        """What this error means."""
        return TRAITS[self.kind]

    @property
    def http_status(self) -> int:
        """The HTTP status for a client if this error ends its stream before the response opens."""
        return self.status or self.trait.status

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later. A silent target (504) is not asked again here, but may then."""
        return self.trait.same or self.http_status == 504

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = self.type or kind_of_status(self.http_status)
        body = error_body(self.message, self.code or self.kind.value, kind, self.param)
        body["error"] = {**self.places, **body["error"]}
        if self.upstream is not None:
            name, target = self.upstream
            body["error"]["upstream"] = {"name": name, "target": target, "request_id": self.request_id}
        return body


@dataclass(eq=False)
class StreamError(SluicewayError):
    """The stream cannot go on, whatever its upstream does. `retryable`: the same request may succeed later."""

    message: str
    code: str
    status: int
    retryable: bool = False

    def __str__(self) -> str:
        return self.message

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        return error_body(self.message, self.code, kind_of_status(self.status))


class StoreError(SluicewayError):
    """The log cannot be written or read now."""


class Deleted(StoreError):
    """The log was deleted: its retention is over, or the store needed the room."""


class Fenced(StoreError):
    """Another relay has taken this stream over. The relay with the older epoch must stop."""


def error_body(message: str, code: str, kind: str, param: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def kind_of_status(status: int) -> str:
    """Return OpenAI's error `type` for an HTTP status."""
    if status == 401:
        return "authentication_error"
    if status == 429:
        return "rate_limit_error"
    return "invalid_request_error" if status < 500 and status != 499 else "api_error"
