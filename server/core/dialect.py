"""What the house needs of a dialect: a way to write a log, to read it back, and to show it to a client.

A dialect is an API that clients speak: OpenAI's chat completions, the gateway's own protocol. It turns a request into a
`Generation`, the pieces that an upstream sends into records, and records into frames. Its folder is in
`server/dialects/`; third parties register theirs under the entry point group `sluiceway.dialects`.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from server.core.errors import StoreError
from server.core.generation import Generation, logged_generation
from server.core.openai.intake import Piece
from server.core.openai.tool_calls import ToolCall
from server.core.openai.transcript import Transcript
from server.core.ports import Log
from server.core.records import Beginning, Ending, Record


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A whole tool call. `piece` tells it to a client of another dialect; None if the server runs the call itself."""

    call: ToolCall
    piece: Piece | None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool of the server's gave, as the model is told."""

    id: str  # of the call
    text: str


class Writer(Protocol):
    """Turns what happens to one stream into records. A class that inherits from it has no word for what it leaves."""

    called: Sequence[ToolCall] = ()  # by the turn that finished last; empty if the dialect passes calls on in pieces

    def resume(self, records: Sequence[Record]) -> None:
        """Go on after records that an earlier relay of this stream has written."""
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

    def recovery(self, announcement: Mapping[str, Any]) -> list[Record]:
        """Return the records that announce a recovery or a takeover."""
        return []

    def tool_result(self, call: ToolCall, result: Mapping[str, Any]) -> list[Record]:
        """Return the records of a result of the server's own tools: its `content` or `error`, `duration_ms`."""
        return []

    def whole_answer(self, data: bytes) -> None:
        """Take the JSON of an answer that is not streamed. It becomes the record that the ending is written with."""
        return

    @abstractmethod
    def ending(self, ending: Ending, transcript: Transcript) -> list[Record]:
        """Return the last records; the very last one is the ending record."""


class Reader(Protocol):
    """Reads one log back, record by record from the first."""

    def read(self, record: Record) -> Sequence[Piece | LoggedCall | ToolResult]:
        """Return what a record says: pieces of the answer, whole calls, results of the server's own tools."""


class Dialect(Protocol):
    """One dialect. It keeps nothing of a stream; writers and readers do. Classes inherit the defaults from it."""

    name: str  # as the beginning of a log has it, and `?format=` takes it
    aliases: Sequence[str] = ()  # further names for `?format=`
    reads_chunks: bool = True  # its writer looks into parsed chunks; otherwise it needs their bytes alone
    whole_calls: bool = False  # a client sees whole tool calls only, so those of a broken attempt were never shown
    server_tools: bool = False  # the server's own tools are offered to the model
    one_choice: bool = True  # it cannot show an answer of several choices (`n`)
    failure_records: int = 1  # of a stream that fails before it has said anything

    def generation(self, beginning: Beginning) -> Generation:
        """Return the request that a stream began with, for a relay that did not receive it."""
        return logged_generation(beginning)

    @abstractmethod
    def writer(self, log: Log, generation: Generation, client_tools: Collection[str] | None) -> Writer:
        """Return the writer of a log. `client_tools`: the tools that the server does not run; None: it runs none."""

    @abstractmethod
    def reader(self, beginning: Beginning) -> Reader:
        """Return a reader of a log, before its first record."""

    @abstractmethod
    def frames(self, first: int, records: Sequence[Record]) -> bytes:
        """Return records, numbered from `first`, as they go out to a client."""

    @abstractmethod
    def gap(self, requested: int, earliest: int, latest: int) -> bytes:
        """Return the frame that tells a reader of lost records; it has no `id:`, so the client's cursor stays.

        Records `requested` to `earliest` - 1 are lost. If `earliest` is past `latest`, nothing is left.
        """

    def broken_off(self, after: int, tail: int, ending: Ending) -> bytes:
        """Return the last frames for a reader if the records of an ended stream after number `after` are gone."""
        return self.gap(after + 1, tail + 1, tail)

    @abstractmethod
    def fault(self, error: Mapping[str, Any]) -> bytes:
        """Return the frame of an error that could not be logged; it has no `id:`, and the stream may still go on."""

    def error(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the JSON of an error before the response opens. `body` is OpenAI's error object, and the default."""
        return body


class UnknownDialectError(StoreError):
    """A log was written in a dialect that is not registered here."""


class Dialects:
    """The registered dialects by name."""

    def __init__(self, dialects: Mapping[str, Dialect]) -> None:
        self._by_name = dict(dialects)
        self._by_format = {alias: one for one in dialects.values() for alias in (one.name, *one.aliases)}

    def of(self, beginning: Beginning) -> Dialect:
        """Return the dialect that a log is written in. Raises UnknownDialectError."""
        dialect = self._by_name.get(beginning.dialect)
        if dialect is None:
            text = f"stream {beginning.id} is written in the dialect {beginning.dialect!r}, which is not registered"
            raise UnknownDialectError(text)
        return dialect

    def named(self, name: str) -> Dialect | None:
        """Return the dialect that `?format=` names."""
        return self._by_format.get(name)

    @property
    def names(self) -> list[str]:
        """What `?format=` takes."""
        return sorted(self._by_format)


def unopened(dialect: Dialect, log: Log) -> bool:
    """Whether a stream failed before its response opened: it holds nothing but its ending."""
    ending = log.ending
    return ending is not None and ending.error is not None and log.tail == dialect.failure_records
