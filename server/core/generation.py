"""A client's request for a generation, and the bodies that go upstream for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from server.core.body import Body
from server.core.records import Beginning, Policy

# Fields other than `response_format` that constrain an answer: the names of vLLM, SGLang and llama.cpp.
GRAMMARS = (
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "regex", "ebnf", "grammar", "json_schema",
)  # fmt: skip
# OpenAI's reasoning models, which refuse `max_tokens`; many other servers do not know `max_completion_tokens`
# (https://platform.openai.com/docs/api-reference/chat/create). A client of chat completions knows its model.
OTHER_LIMIT = re.compile(r"(?:.*/)?(?:o[1-9]|gpt-[5-9])")


@dataclass(frozen=True, slots=True)
class Generation:
    """A validated request. `body` is the chat request that it means, without the fields that only the gateway knows.

    A client of chat completions has sent it so. `source` is what a client of another dialect has sent.
    Whatever mapping it is made with, it keeps a `Body`. Raises orjson.JSONEncodeError if the body cannot be written.
    """

    dialect: str
    model: str
    body: Mapping[str, Any]
    stream: bool
    policy: Policy
    choices: int = 1
    show_usage: bool = False  # the client asked for the usage chunk
    trace: tuple[tuple[str, str], ...] = ()  # headers passed on: traceparent, tracestate, x-request-id
    request_id: str = ""
    received: float | None = None  # time.monotonic() when the whole request was in; None: in another process
    source: Body | None = None
    changed: bool = False  # the operator's functions have changed `body`, so that `source` does not say the same
    headers: tuple[tuple[str, str], ...] = ()  # the client's, for an upstream that speaks the same dialect
    retention: float | None = None  # see `Beginning`, as for the next one
    detached: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.body, Body):
            object.__setattr__(self, "body", Body(self.body))

    @property
    def kept(self) -> Body:
        """The body, as what it always is."""
        assert isinstance(self.body, Body)
        return self.body

    @property
    def logged(self) -> Body:
        """The request as its client sent it, which is what a log has."""
        return self.kept if self.source is None else self.source

    @property
    def structured(self) -> bool:
        """Whether a grammar constrains the answer. A continuation would lose the state of that grammar."""
        shape = self.body.get("response_format")
        return (isinstance(shape, dict) and shape.get("type") != "text") or any(
            self.body.get(name) for name in GRAMMARS
        )

    def upstream_body(
        self, model: str, *, ask_usage: bool, drop_usage: bool = False, changes: dict[str, Any] | None = None
    ) -> bytes:
        """Return the JSON body for one attempt: the client's, with the upstream's model name and with `changes`.

        `drop_usage`: the upstream refuses to be asked for usage, also by the client. The gateway estimates it.
        """
        fields = {"model": model, **(changes or {})}
        without: list[str] = []
        if self.source is not None and "max_tokens" in self.body and OTHER_LIMIT.match(model):
            fields["max_completion_tokens"] = fields.pop("max_tokens", self.body["max_tokens"])
            without.append("max_tokens")
        options = self.body.get("stream_options")
        options = dict(options) if isinstance(options, dict) else {}
        if self.stream and drop_usage and "include_usage" in options:
            del options["include_usage"]
            if options:
                fields["stream_options"] = options
            else:
                without.append("stream_options")
        elif self.stream and ask_usage and not drop_usage:
            fields["stream_options"] = {**options, "include_usage": True}
        return self.kept.changed(fields, without)


def logged_generation(beginning: Beginning, *, show_usage: bool = False) -> Generation:
    """Rebuild the request that a stream began with. Of the headers for the upstream, a log has only the request id.

    Nothing of the body is parsed here, unless an older version has written the log: a small GET must not cost as much
    as the large request that began its stream.
    """
    body = Body.read(beginning.body)
    return Generation(
        dialect=beginning.dialect,
        model=beginning.model,
        body=body,
        stream=beginning.stream,
        policy=beginning.policy,
        choices=beginning.choices or body.get("n") or 1,
        show_usage=show_usage and (asks_usage(body) if beginning.asks_usage is None else beginning.asks_usage),
        trace=(("x-request-id", beginning.request_id),) if beginning.request_id else (),
        request_id=beginning.request_id,
    )


def with_changes(generation: Generation) -> bytes:
    """Return what a log has of a request whose chat request was changed: as the client sent it, and that."""
    if generation.source is None:
        return generation.kept.data
    return b'{"source":' + generation.source.data + b',"chat":' + generation.kept.data + b"}"


def logged_request(beginning: Beginning) -> tuple[Body, Body | None]:
    """Return the request as its client sent it. If the chat request that it means was changed, return that, too."""
    if not beginning.changed:
        return Body.read(beginning.body), None
    both = Body.read(beginning.body)
    return Body(both["source"]), Body(both["chat"])


def asks_usage(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for the usage chunk (`stream_options.include_usage`)."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
