"""OpenAI's chat completions. A log holds the upstream's chunks as they came.

Source: https://platform.openai.com/docs/api-reference/chat.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from server.api.dialect import ServedDialect
from server.api.respond import Responder
from server.core.dialect import Reader, Writer
from server.core.errors import error_body
from server.core.generation import Generation, logged_generation
from server.core.openai.sse import LF, frame, unnumbered
from server.core.ports import Log
from server.core.records import Beginning, Record, Tokens
from server.core.upstream_api import ChatApi, UpstreamApi
from server.dialects.chat.routes import Completions
from server.dialects.chat.writer import ChatReader, ChatWriter
from server.streams.streams import Streams


class Chat(ServedDialect):
    """The dialect of `POST /v1/chat/completions`."""

    name = "chat"
    aliases: Sequence[str] = ("openai",)
    one_choice = False
    upstream_api: UpstreamApi | None = ChatApi()

    def generation(self, beginning: Beginning) -> Generation:
        """Rebuild the request that a stream began with."""
        return logged_generation(beginning, show_usage=True)

    def writer(self, log: Log, generation: Generation, client_tools: Collection[str] | None) -> Writer:  # noqa: ARG002 — the protocol's
        """Return the writer of a log."""
        return ChatWriter(show_usage=generation.show_usage)

    def reader(self, beginning: Beginning) -> Reader:  # noqa: ARG002 — the protocol's
        """Return a reader of a log."""
        return ChatReader()

    def frames(self, first: int, records: Sequence[Record]) -> bytes:
        """Return the bytes that a client gets for records: `id:` and `data:`."""
        if isinstance(records, Tokens):  # their data has no line end, for which `frame` would look
            before, texts, after = records.before, records.texts, records.after
            if len(texts) == 1:
                return b"id: %d\ndata: %b%b%b\n\n" % (first, before, texts[0], after)
            frames = [b"id: %d\ndata: %b%b%b\n\n" % (seq, before, text, after) for seq, text in enumerate(texts, first)]
            return b"".join(frames)
        if len(records) == 1 and LF not in (data := records[0][1]):
            return b"id: %d\ndata: %b\n\n" % (first, data)  # a single token does not need a list
        # `frame` per record, with its look for line ends, costs three times as much as this.
        plain = b"".join([b"id: %d\ndata: %b\n\n" % (seq, data) for seq, (_, data) in enumerate(records, first)])
        if plain.count(b"\n") == 3 * len(records):
            return plain
        return b"".join([frame(seq, data) for seq, (_, data) in enumerate(records, first)])

    def gap(self, requested: int, earliest: int, latest: int) -> bytes:
        """Return an error object with the code `gap`."""
        continuation = f"it goes on from {earliest}" if earliest <= latest else "nothing comes after them"
        text = f"Records {requested} to {earliest - 1} of this stream were lost; {continuation}."
        error = error_body(text, "gap", "api_error")
        error["error"] |= {"requested": requested, "earliest": earliest, "latest": latest}
        return unnumbered(orjson.dumps(error))

    def fault(self, error: Mapping[str, Any]) -> bytes:
        """Return an error object."""
        return unnumbered(orjson.dumps({"error": error}))

    def routes(self, streams: Streams, responder: Responder) -> Sequence[web.RouteDef]:
        """Return the routes of this dialect."""
        return Completions(self, streams, responder).routes()
