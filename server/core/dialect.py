"""What the gateway needs from a dialect: a way to write a log, to read it back, and to show it to a client.

A dialect is an API that clients speak, such as OpenAI's chat completions or the gateway's own protocol. It turns a
request into a `Generation`, the pieces that an upstream sends into records, and records into frames. The built-in
dialects are in `server/dialects/`. Third parties register theirs under the entry point group `sluiceway.dialects`.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.core.errors import StoreError
from server.core.generation import Generation, logged_generation
from server.core.openai.tool_calls import ToolCall
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import STREAM_PREFIX, WHOLE, Beginning, Ending, Record, Tokens
from server.core.upstream_api import Piece, UpstreamApi


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A whole tool call. `piece` shows it to a client of another dialect; None if the server runs the call itself."""

    call: ToolCall
    piece: Piece | None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one of the server's own tools, as the model gets it."""

    id: str  # of the call
    text: str


class Writer(Protocol):
    """Turns what happens to one stream into records. By default, an optional method writes no record."""

    # The kind of record of a plain token that is logged as it came. "": this writer needs every piece parsed.
    token_kind: str = ""
    # The calls of the turn that finished last. Always empty if the dialect passes calls on in pieces.
    finished_calls: Sequence[ToolCall] = ()
    idle_after: float = 0.0  # seconds; 0: a silence writes nothing

    def begin(self) -> list[Record]:
        """Return the records that are due before the model is asked."""
        return []

    def resume(self, records: Sequence[Record]) -> None:
        """Take in records that an earlier relay of this stream has written: the first ones, or those that follow.

        A long log comes in parts, from the first record to the last. Then this writer goes on.
        """
        return

    def begin_attempt(self) -> None:
        """Forget what an earlier attempt left unfinished."""
        return

    @abstractmethod
    def pieces(self, pieces: Sequence[Piece]) -> list[Record]:
        """Return the records of pieces that were just received. This is the path of every token.

        Raises:
            StreamError: the stream cannot hold them.

        """

    def tokens(self, tokens: Tokens) -> Sequence[Record]:
        """Return the records of plain tokens, which have the kind `token_kind` and the upstream's own data.

        This is the path of nearly every token. Their texts are what JSON has between two quotes.
        """
        return tokens

    def end_turn(self) -> list[Record]:
        """Return the records that are due when the answer to one request to the model is whole.

        A dialect with `whole_calls` returns the calls of the turn, and sets `finished_calls`.
        """
        return []

    def recovery(self, announcement: Mapping[str, Any]) -> list[Record]:
        """Return the records that announce a recovery or a takeover."""
        return []

    def tool_result(self, call: ToolCall, result: Mapping[str, Any]) -> list[Record]:
        """Return the records for the result of one of the server's own tools.

        `result` has `content` or `error`, and `duration_ms`.
        """
        return []

    def idle(self) -> list[Record]:
        """Return what the log says if nothing else was logged for `idle_after` seconds."""
        return []

    def whole_answer(self, answer: Piece) -> None:
        """Keep an answer that is not streamed, a JSON object. `ending` then writes it as the last record."""
        return

    @abstractmethod
    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:
        """Return the last records. The very last one is the ending record."""


class Reader(Protocol):
    """Reads one log back, record by record from the first."""

    def read(self, record: Record) -> Sequence[Piece | LoggedCall | ToolResult]:
        """Return what a record holds: pieces of the answer, whole calls, results of the server's own tools."""


class Dialect(Protocol):
    """One dialect. It has no state of any stream: its writers and readers have. Classes inherit the defaults."""

    name: str  # as `Beginning.dialect` and `?format=` give it
    aliases: Sequence[str] = ()  # further names for `?format=`
    whole_calls: bool = False  # clients see only whole tool calls, so they saw none of a broken attempt's
    server_tools: bool = False  # the server's own tools are offered to the model
    one_choice: bool = True  # it cannot show an answer of several choices (`n`)
    id_prefix: str = STREAM_PREFIX  # what its clients see in place of the prefix of a stream's id
    failure_records: int = 1  # how many records a stream has that fails before its first token
    upstream_api: UpstreamApi | None = None  # how an upstream that speaks it is asked and read

    def generation(self, beginning: Beginning) -> Generation:
        """Rebuild the request that a stream began with, for a relay that did not receive it."""
        return logged_generation(beginning)

    @abstractmethod
    def writer(self, log: Log, generation: Generation, client_tools: Collection[str] | None) -> Writer:
        """Return the writer of a log. `client_tools`: tools that the server does not run; None: it runs no tools."""

    @abstractmethod
    def reader(self, beginning: Beginning) -> Reader:
        """Return a reader of a log, which starts at its first record."""

    @abstractmethod
    def frames(self, first: int, records: Sequence[Record]) -> bytes:
        """Return the bytes that a client gets for records. The first record has the number `first`."""

    @abstractmethod
    def gap(self, requested: int, earliest: int, latest: int) -> bytes:
        """Return the frame that tells a client of lost records. It has no `id:`, so the client's cursor stays.

        Records `requested` to `earliest` - 1 are lost. If `earliest` is past `latest`, nothing is left.
        """

    def whole(self, records: Sequence[Record]) -> bytes:
        """Return the JSON answer of an ended stream, for a client that asked for no stream; empty if there is none."""
        return records[-1].data if records[-1].kind == WHOLE else b""

    def broken_off(self, after: int, tail: int, ending: Ending) -> bytes:
        """Return the last frames for a client if the records of an ended stream after number `after` are gone."""
        return self.gap(after + 1, tail + 1, tail)

    @abstractmethod
    def fault(self, error: Mapping[str, Any]) -> bytes:
        """Return the frame of an error that could not be logged. It has no `id:`. The stream may still go on."""

    def error(self, body: Mapping[str, Any], status: int, request_id: str) -> Mapping[str, Any]:
        """Return the JSON of an error before the response opens. `body` is OpenAI's error object, the default."""
        return body


class UnknownDialectError(StoreError):
    """A log was written in a dialect that is not registered here."""


class Dialects:
    """The registered dialects by name."""

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self._by_name = dict(dialects)
        self._by_format = {
            alias: dialect for dialect in dialects.values() for alias in (dialect.name, *dialect.aliases)
        }

    def of(self, beginning: Beginning) -> Dialect:
        """Return the dialect that a log is written in. Raises UnknownDialectError."""
        dialect = self._by_name.get(beginning.dialect)
        if dialect is None:
            text = f"stream {beginning.id} is written in the dialect {beginning.dialect!r}, which is not registered"
            raise UnknownDialectError(text)
        return dialect

    def named(self, name: str) -> Dialect | None:
        """Return the dialect that `?format=` names, or None."""
        return self._by_format.get(name)

    def stream_id(self, identity: str) -> str:
        """Return the stream's id for an id that a client of any dialect was given."""
        prefix, mark, rest = identity.partition("_")
        prefixes = {dialect.id_prefix for dialect in self._by_name.values()}
        return STREAM_PREFIX + rest if prefix + mark in prefixes else identity

    @property
    def upstream_apis(self) -> dict[str, UpstreamApi]:
        """The APIs that upstreams may speak, by name."""
        apis = [dialect.upstream_api for dialect in self._by_name.values()]
        return {api.name: api for api in apis if api is not None}

    @property
    def names(self) -> list[str]:
        """The values that `?format=` accepts."""
        return sorted(self._by_format)


def unopened(dialect: Dialect, log: Log) -> bool:
    """Whether a stream failed before its response opened: its log holds nothing but its ending."""
    ending = log.ending
    return ending is not None and ending.error is not None and log.tail == dialect.failure_records
