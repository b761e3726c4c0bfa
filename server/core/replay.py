"""Reading a log back: what was said in each turn, for recovery, takeover and the tool loop.

The log is the truth. Nothing of it is kept twice, and a relay that did not write it knows as much as the one that did.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.core.dialect import LoggedCall, Reader, ToolResult
from server.core.openai.chunks import TEXTS, Chunk, has_substance, index_of, text_of
from server.core.openai.tool_calls import ToolCall
from server.core.openai.transcript import Transcript
from server.core.records import Record
from server.core.recovery.seam import Texts


@dataclass(slots=True)
class LoggedTurn:
    """One request to the model, as the log tells it: what was said, the calls it made, the results by the call's id."""

    transcript: Transcript
    calls: list[ToolCall] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)
    _texts: defaultdict[tuple[int, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    _silent: list[Chunk] = field(default_factory=list)  # chunks before the first one that says anything

    @property
    def texts(self) -> Texts:
        """The delivered texts by choice and kind (`chunks.TEXTS`).

        Content that is no text (Mistral's list of parts) comes under a kind of its own, `parts`. A restart cannot
        verify it, so it never finds all of it told again and diverges.
        """
        return {key: "".join(parts) for key, parts in self._texts.items()}

    @property
    def owed(self) -> list[ToolCall]:
        """The server's whole calls that have no result yet."""
        return [call for call in self.calls if call.server and not call.incomplete and call.id not in self.results]

    @property
    def answered(self) -> bool:
        """Whether the model can be asked again: it called tools, and every call has its result."""
        return bool(self.calls) and all(call.id in self.results for call in self.calls)

    def hear(self, chunk: Chunk) -> None:
        """Take in one chunk."""
        # A role alone is nothing delivered: it is observed with what follows it, for its identity.
        if not self.transcript.begun and not any(has_substance(choice) for choice in chunk.get("choices") or ()):
            self._silent.append(chunk)
            return
        for earlier in self._silent:
            self.transcript.observe(earlier)
        self._silent.clear()
        self.transcript.observe(chunk)
        for index, kind, text in _pieces_of_text(chunk):
            if isinstance(text, str):
                self._texts[index, kind].append(text)
            else:
                self._texts[index, "parts"].append(orjson.dumps(text).decode())


def replay(reader: Reader, records: Iterable[Record], choices: int = 1) -> list[LoggedTurn]:
    """Return the turns of a log, at least one; the last one is under way unless it has calls.

    A turn's calls are logged together, before any of their results. What is said after them is another turn.
    """
    turns = [LoggedTurn(Transcript(choices))]
    for record in records:
        for entry in reader.read(record):
            if isinstance(entry, ToolResult):
                turns[-1].results[entry.id] = entry.text
            elif isinstance(entry, LoggedCall):
                if turns[-1].results:
                    turns.append(LoggedTurn(Transcript(choices)))
                turns[-1].calls.append(entry.call)
            else:
                if turns[-1].calls:
                    turns.append(LoggedTurn(Transcript(choices)))
                turns[-1].hear(entry.chunk)
    return turns


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a takeover starts from: all that a relay which is gone has told and done."""

    transcript: Transcript  # of the turn that is under way
    tokens: int  # of the turns before it
    owes_results: bool  # the last turn called tools, and not all of them have their results


def inherited(turns: Sequence[LoggedTurn], choices: int) -> Inheritance:
    """Return what a takeover starts from."""
    transcript = running(turns, choices).transcript
    transcript.usage = None  # of an attempt that is gone, and not billed again
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
