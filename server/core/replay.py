"""Reading a log back: the text, calls and results of each turn, for recovery, takeover and the tool loop.

A relay has no second copy of what it logged. A relay that takes a log over thus knows as much as the one that wrote it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.core.dialect import LoggedCall, Reader, ToolResult
from server.core.openai.chunks import TEXTS, Chunk, index_of, others_of, says_anything, text_of, text_within
from server.core.openai.tool_calls import ToolCall
from server.core.openai.transcript import Transcript
from server.core.records import Record
from server.core.recovery.seam import Texts
from server.core.wide_json import dumps, paired


@dataclass(slots=True)
class LoggedTurn:
    """One request to the model, read from the log: the texts, the model's calls, and their results by the call's id."""

    transcript: Transcript
    calls: list[ToolCall] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    others: Counter[tuple[int, str]] = field(default_factory=Counter)  # items beside texts, by choice and field
    _texts: defaultdict[tuple[int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    _silent: list[Chunk] = field(default_factory=list)  # chunks before the first one that says anything

    @property
    def texts(self) -> Texts:
        """The delivered texts by choice and kind (`chunks.TEXTS`).

        Content that is no text (Mistral's list of parts) is under a kind of its own, `parts`. A restart cannot compare
        it with the new answer, so the restart diverges.
        """
        return {key: paired("".join(parts)) for key, parts in self._texts.items()}

    @property
    def unanswered_calls(self) -> list[ToolCall]:
        """The whole calls of the server's tools that have no result yet."""
        return [call for call in self.calls if call.server and not call.incomplete and call.id not in self.results]

    @property
    def answered(self) -> bool:
        """Whether the model called tools and every call has its result, so that it can be asked again."""
        return bool(self.calls) and all(call.id in self.results for call in self.calls)

    def add(self, chunk: Chunk) -> None:
        """Take in one chunk."""
        # A role alone does not count as delivered. It is kept for its identity until a chunk with a text follows.
        if not self.transcript.begun and not any(says_anything(choice) for choice in chunk.get("choices") or ()):
            self._silent.append(chunk)
            return
        for earlier in self._silent:
            self.transcript.observe(earlier)
        self._silent.clear()
        self.transcript.observe(chunk)
        for choice in chunk.get("choices") or ():
            for name, items in others_of(choice.get("delta") or {}):
                self.others[index_of(choice), name] += sum(text_within(item) is None for item in items)
        for index, kind, text in _pieces_of_text(chunk):
            if isinstance(text, str):
                self._texts[index, kind].append(text)
            else:
                self._texts[index, "parts"].append(dumps(text).decode())


class Replay:
    """The turns of a log, at least one, as far as its records were fed. The last one is under way unless it has calls.

    A turn's calls are logged together, before any of their results. Whatever follows belongs to the next turn.
    """

    def __init__(self, reader: Reader, choices: int = 1) -> None:
        self._reader = reader
        self._choices = choices
        self.turns = [LoggedTurn(Transcript(choices))]

    def feed(self, records: Iterable[Record]) -> None:
        """Take the next records."""
        for record in records:
            for entry in self._reader.read(record):
                if isinstance(entry, ToolResult):
                    self.turns[-1].results[entry.id] = entry.text
                elif isinstance(entry, LoggedCall):
                    if self.turns[-1].results:
                        self._next()
                    self.turns[-1].calls.append(entry.call)
                else:
                    if self.turns[-1].calls:
                        self._next()
                    self.turns[-1].add(entry.chunk)

    def _next(self) -> None:
        self.turns.append(LoggedTurn(Transcript(self._choices)))


def replay(reader: Reader, records: Iterable[Record], choices: int = 1) -> list[LoggedTurn]:
    """Return the turns of a log that is small: a large one would hold the event loop up."""
    whole = Replay(reader, choices)
    whole.feed(records)
    return whole.turns


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a takeover starts from: what the earlier relay delivered and did."""

    transcript: Transcript  # of the turn that is under way
    tokens: int  # of the turns before it
    owes_results: bool  # the last turn called tools, and not all of them have their results


def inherited(turns: Sequence[LoggedTurn], choices: int) -> Inheritance:
    """Return what a takeover starts from."""
    transcript = running(turns, choices).transcript
    transcript.usage = None  # it belongs to an attempt of the earlier relay; this one does not bill it
    tokens = sum(turn.transcript.tokens for turn in turns if turn.calls)
    return Inheritance(transcript, tokens, owes_results=bool(turns[-1].calls) and not turns[-1].answered)


def running(turns: Sequence[LoggedTurn], choices: int = 1) -> LoggedTurn:
    """Return the turn that is under way: an empty one if the last one has finished with calls."""
    return turns[-1] if not turns[-1].calls else LoggedTurn(Transcript(choices))


def _pieces_of_text(chunk: Chunk) -> Iterator[tuple[int, str, Any]]:
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or {}
        for kind in TEXTS:
            if text := text_of(delta, kind):
                yield index_of(choice), kind, text
