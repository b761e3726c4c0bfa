"""A script: everything that one answer of the provider can be, as one typed value.

Every `…_at k` and `…_after k` counts *content chunks*. Those carry text, reasoning or a piece of a tool call, not the
role, the finish reason, the usage or `[DONE]`. Something happens when exactly `k` of them have been sent: 0 is "before
the first". All durations are in seconds.
"""

import types
from dataclasses import dataclass, fields
from typing import Any, Self, get_args, get_origin, get_type_hints

AUTO = "auto"


class ScriptError(ValueError):
    """A script that cannot be played. The text names the field and says why."""


@dataclass(frozen=True, slots=True)
class Script:
    """One answer. Every field may be left out: the default is twenty tokens at full speed and a clean ending."""

    # The content. If several are given, the first of chunks, pieces, text and tokens counts.
    tokens: int | None = None  # count; 20, or 0 beside tool_calls
    text: str | None = None  # split into words
    pieces: list[str] | None = None  # the content of each chunk
    chunks: list[Any] | None = None  # whole payloads, verbatim; only [DONE] is added to them
    seed_text: int | str | None = None  # `tokens` pseudo-random words, the same ones for the same seed
    big: int = 0  # the least number of characters per token
    reasoning: list[str] | None = None  # sent first, as reasoning_content
    tool_calls: list[dict[str, Any]] | None = None  # index, id, name, arguments (text or any JSON value)
    tool_piece: int = 8  # characters of arguments per chunk
    interleave: bool = False  # the calls take turns instead of following each other

    # The envelope.
    role_chunk: bool | None = None  # default: true, but false with chunks
    finish: str | None = AUTO  # default: "stop" or "tool_calls", or none with chunks; null: no finish chunk
    usage: bool | None = None  # null: as stream_options.include_usage asks
    done: bool = True
    logprobs: bool = False
    system_fingerprint: str | None = None
    model_echo: str | None = None  # the model named in the answer instead of the one asked for

    # What the request changes.
    honour_max_tokens: bool = False
    require_key: str | None = None  # 401 without this bearer token
    reject_prefill: bool = False  # 400 if the last message is an assistant's
    continue_text: bool = False  # send only what a last message of the assistant does not hold yet
    echo_prefix: bool = False  # send that message again first

    # Time.
    rate: float = 0  # chunks per second; 0: as fast as the reader takes them
    headers_after: float = 0
    ttft: float = 0  # between the head (and role chunk) and the first content chunk
    never_answer: bool = False
    stall_after: int | None = None
    stall_for: float | None = None  # default: for ever
    comments: float = 0  # seconds between two ": keep-alive", from the head on, also in a stall
    gate_at: int | list[int] | None = None  # stands still there until POST /_open lets it go on, once for each gate
    after_finish: str = "close"  # the response ends; "hang": it never does. The connection stays open

    # An answer that is no stream.
    status: int = 200
    error: Any = None  # the error object, of `status` or `error_at`; a text is sent as an HTML page
    headers: dict[str, str] | None = None
    json_body: Any = None  # true: the completion as plain JSON; an object: that object

    # Faults in the stream.
    error_at: int | None = None  # in-band, and the stream ends
    garbage_at: int | None = None  # an event that is not JSON, and the stream goes on
    eof_after: int | None = None  # a clean end of the body
    cut_after: int | None = None  # FIN without the end of the body
    reset_after: int | None = None  # RST
    reset_in_utf8_at: int | None = None  # RST inside a character of that chunk
    reset_before_head: bool = False
    bad_chunk_header_at: int | None = None

    # The bytes.
    split: str | int | list[int] | None = None  # "byte", "random", a size, or the first sizes
    split_delay: float = 0
    seed: int = 0
    newline: str = "\n"
    content_length: str | None = None  # "lie_short", "lie_long"
    http10: bool = False
    gzip_if_accepted: bool = False

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a script from decoded JSON. Raises ScriptError."""
        if not isinstance(value, dict):
            raise ScriptError(f"a script is an object, not {value!r}")
        for name, given in value.items():
            if name not in _HINTS:
                raise ScriptError(f"unknown field {name!r}")
            if not _fits(given, _HINTS[name]):
                raise ScriptError(f"{name}: {given!r} does not fit {_HINTS[name]}")
        for name, known in _WORDS.items():
            if isinstance(word := value.get(name), str) and word not in known:
                raise ScriptError(f"{name}: {word!r} is none of {known}")
        script = cls(**value)
        if script.stall_for is not None and script.stall_after is None:
            raise ScriptError("stall_for needs stall_after")
        if script.bad_chunk_header_at is not None and (script.http10 or script.content_length or script.split):
            raise ScriptError("bad_chunk_header_at needs a chunked body that is not split")
        if script.split == 0 or (isinstance(script.split, list) and not all(size > 0 for size in script.split)):
            raise ScriptError("split: sizes are positive")
        return script

    @property
    def marks(self) -> frozenset[int]:
        """The counts of content chunks at which something happens."""
        at = (
            self.error_at,
            self.garbage_at,
            self.eof_after,
            self.cut_after,
            self.reset_after,
            self.reset_in_utf8_at,
            self.bad_chunk_header_at,
            self.stall_after,
        )
        return frozenset(k for k in at if k is not None) | self.gates

    @property
    def gates(self) -> frozenset[int]:
        """The counts of content chunks at which it stands still until it is told to go on."""
        at = self.gate_at
        return frozenset(at if isinstance(at, list) else () if at is None else (at,))


_HINTS: dict[str, Any] = {f.name: get_type_hints(Script)[f.name] for f in fields(Script)}
_WORDS = {
    "after_finish": ("close", "hang"),
    "split": ("byte", "random"),
    "newline": ("\n", "\r\n", "\r"),
    "content_length": ("lie_short", "lie_long"),
}


def _fits(value: object, hint: Any) -> bool:
    """Whether decoded JSON has the type of a field. The items of a container are not looked at."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        plain = get_origin(kind) or kind
        if plain is Any:
            return True
        if isinstance(value, bool):
            if plain is bool:
                return True
        elif isinstance(value, (int, float) if plain is float else plain):
            return True
    return False
