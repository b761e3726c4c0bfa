"""A dialect of a third party, for tests: `POST /plain` takes a prompt, and each event of the answer is a bare text."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web

from server.api.access import OWNER
from server.api.dialect import ServedDialect
from server.api.requests import policy, read_json
from server.api.respond import Responder
from server.core.dialect import Reader, Writer
from server.core.generation import Generation
from server.core.openai.sse import frame, unnumbered
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import Beginning, Ending, Record
from server.core.upstream_api import Piece
from server.streams.streams import Streams


class Plain(ServedDialect):
    """Its log has a record `text` for each piece of text, and one record `end`."""

    name = "plain"

    def writer(self, log: Log, generation: Generation, client_tools: Collection[str] | None) -> Writer:
        return PlainWriter()

    def reader(self, beginning: Beginning) -> Reader:
        return PlainReader()

    def frames(self, first: int, records: Sequence[Record]) -> bytes:
        return b"".join([frame(seq, record.data) for seq, record in enumerate(records, first)])

    def gap(self, requested: int, earliest: int, latest: int) -> bytes:
        return unnumbered(b"%d to %d are lost" % (requested, earliest - 1))

    def fault(self, error: Mapping[str, Any]) -> bytes:
        return unnumbered(str(error["code"]).encode())

    def error(self, body: Mapping[str, Any], status: int, request_id: str) -> Mapping[str, Any]:
        return {"problem": body["error"]["message"]}

    def routes(self, streams: Streams, responder: Responder) -> Sequence[web.RouteDef]:
        async def create(request: web.Request) -> web.StreamResponse:
            sent = await read_json(request, streams.settings.server.max_body_bytes)
            body = {"model": sent["model"], "messages": [{"role": "user", "content": sent["prompt"]}], "stream": True}
            disconnect = policy(request, streams.settings)
            generation = Generation(self.name, sent["model"], body, stream=True, policy=disconnect)
            stream = await streams.create(generation, request[OWNER], None)
            return await responder.respond(request, stream, wait=True, dialect=self)

        return [web.post("/plain", create)]


class PlainWriter(Writer):
    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        choices = [choice for piece in pieces for choice in piece.chunk.get("choices") or ()]
        return [Record("text", orjson.dumps(text)) for one in choices if (text := one["delta"].get("content"))]

    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:
        return [Record("end", ending.reason.encode())]


class PlainReader(Reader):
    def read(self, record: Record) -> Sequence[Piece]:
        delta = {"content": orjson.loads(record.data)} if record.kind == "text" else {}
        reason = record.data.decode() if record.kind == "end" else None
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        return [Piece(orjson.dumps(chunk), chunk)]
