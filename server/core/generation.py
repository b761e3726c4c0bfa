"""A client's request for a generation, and the bodies that go upstream for it."""

from dataclasses import dataclass
from typing import Any

import orjson

from server.core.records import Beginning, Policy

# Fields other than `response_format` that constrain an answer: the names of vLLM, SGLang and llama.cpp.
GRAMMARS = (
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "regex", "ebnf", "grammar", "json_schema",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Generation:
    """A validated request. `body` is as the client sent it, without the fields that only the gateway knows."""

    dialect: str
    model: str
    body: dict[str, Any]
    stream: bool
    policy: Policy
    choices: int = 1
    show_usage: bool = False  # the client asked for the usage chunk
    trace: tuple[tuple[str, str], ...] = ()  # headers passed on: traceparent, tracestate, x-request-id
    request_id: str = ""
    received: float | None = None  # time.monotonic() when the whole request was in; None: in another process

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
        body = {**self.body, "model": model, **(changes or {})}
        options = self.body.get("stream_options")
        options = dict(options) if isinstance(options, dict) else {}
        if self.stream and drop_usage and "include_usage" in options:
            del options["include_usage"]
            body["stream_options"] = options
            if not options:
                del body["stream_options"]
        elif self.stream and ask_usage and not drop_usage:
            body["stream_options"] = {**options, "include_usage": True}
        return orjson.dumps(body)


def logged_generation(beginning: Beginning, *, show_usage: bool = False) -> Generation:
    """Rebuild the request that a stream began with. Of the headers for the upstream, a log has only the request id."""
    body = orjson.loads(beginning.body)
    return Generation(
        dialect=beginning.dialect,
        model=beginning.model,
        body=body,
        stream=beginning.stream,
        policy=beginning.policy,
        choices=body.get("n") or 1,
        show_usage=show_usage and asks_usage(body),
        trace=(("x-request-id", beginning.request_id),) if beginning.request_id else (),
        request_id=beginning.request_id,
    )


def asks_usage(body: dict[str, Any]) -> bool:
    """Whether a request asks for the usage chunk (`stream_options.include_usage`)."""
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
