"""Upstreams that speak the Messages API: Anthropic itself, and what speaks like it."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from server.core.errors import Kind, UpstreamError
from server.core.generation import Generation
from server.core.openai.chunks import Chunk
from server.core.openai.sse import Event
from server.core.recovery.classify import in_band
from server.core.upstream_api import Piece, Translator, UpstreamApi
from server.core.wide_json import dumps, loads
from server.dialects.messages.chunks import MessageChunks
from server.dialects.messages.events import ERROR, MESSAGE_STOP
from server.dialects.messages.outgoing import messages_body
from server.dialects.messages.whole import completion_of

NAME = "messages"
VERSION = "2023-06-01"  # https://platform.claude.com/docs/en/api/versioning
BETAS = "anthropic_beta"  # where a log has the client's header `anthropic-beta`, under Bedrock's name for it


class EventTranslator(Translator):
    """Reads the events of one attempt. Each keeps its bytes, for a client that speaks Messages as well."""

    def __init__(self) -> None:
        self.done = False
        self._chunks = MessageChunks("", int(time.time()), "")

    def read(self, event: Event) -> Sequence[Piece]:
        """Return what an event means. Raises UpstreamError if it is an error or cannot be read."""
        try:
            value = loads(event.data)
        except ValueError:
            if event.type == ERROR.encode():
                raise in_band(event.data.decode("utf-8", "replace")) from None
            raise UpstreamError(Kind.GARBAGE, "The upstream sent an event that is not JSON.") from None
        kind = value.get("type") if isinstance(value, dict) else None
        if kind == ERROR or event.type == ERROR.encode():
            raise in_band(value)
        if not isinstance(kind, str) or event.type not in (b"", kind.encode("utf-8", "replace")):
            raise UpstreamError(Kind.UNUSABLE, "The upstream sent an event that is none of the Messages API.")
        if kind == MESSAGE_STOP:
            self.done = True
            return ()
        chunks = self._chunks.of(value)
        # The usage has no event of its own here, and a chat client that did not ask for it does not get its chunk.
        if not chunks or not chunks[0]["choices"]:
            chunks.insert(0, self._chunks.nothing())
        data = [event.data, *[b""] * (len(chunks) - 1)]
        return [Piece(one, chunk, NAME) for one, chunk in zip(data, chunks, strict=True)]


class MessagesApi(UpstreamApi):
    """The Messages API, asked with the client's own request, or with one that is made of a chat request."""

    name = NAME
    path = "/messages"

    def headers(self, generation: Generation) -> Mapping[str, str]:
        """Return the version of the API, and the client's own choice of it and of betas if it speaks Messages."""
        own = dict(generation.headers) if generation.dialect == NAME else {}
        return {"anthropic-version": VERSION, **own}

    def body(
        self,
        generation: Generation,
        model: str,
        *,
        ask_usage: bool,  # noqa: ARG002 — here it is always told
        drop_usage: bool,  # noqa: ARG002 — the same
        changes: dict[str, Any] | None,
    ) -> bytes:
        """Return the client's request as it is, but for the model's name, or the one that a chat request means."""
        own = generation.dialect == NAME and generation.source is not None
        if own and generation.source is not None and not changes and not generation.changed:
            return generation.source.changed({"model": model}, without=(BETAS,))
        return dumps(messages_body({**generation.body, **(changes or {})}, model))

    def translator(self) -> Translator:
        """Return what reads the events of one attempt."""
        return EventTranslator()

    def whole(self, answer: Chunk) -> Chunk:
        """Return a whole message as a chat completion. Raises UpstreamError if it is none."""
        if not isinstance(answer.get("content"), list):
            raise UpstreamError(Kind.UNUSABLE, "The upstream's answer is not a message.")
        return completion_of(answer, int(time.time()))
