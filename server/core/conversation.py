"""The tool rounds of a native stream, read back from its log: what the model is told next, which calls are owed.

The log is the truth: the request of the next round is made from it whether this process wrote it or one that is gone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.core.native import REASONING, TOKEN, TOOL_CALL, TOOL_RESULT
from server.core.records import Record

Message = dict[str, Any]


@dataclass(slots=True)
class Turn:
    """One turn of the model: what it said, the calls it made (`tool_call` events), the results by the call's id."""

    text: str = ""
    tokens: int = 0  # content chunks
    calls: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)

    @property
    def owed(self) -> list[dict[str, Any]]:
        """The server's calls that have no result yet."""
        return [
            call for call in self.calls if call["server"] and not call["incomplete"] and call["id"] not in self.results
        ]

    @property
    def answered(self) -> bool:
        """Whether the model can be asked again: it called tools, and every call has its result."""
        return bool(self.calls) and all(call["id"] in self.results for call in self.calls)


def turns(records: Iterable[Record]) -> list[Turn]:
    """Return the turns in a native log that said or called anything."""
    found: list[Turn] = []
    for kind, data in records:
        if kind == TOOL_RESULT:
            result = orjson.loads(data)
            found[-1].results[result["id"]] = result_text(result)
        elif kind in (TOKEN, REASONING, TOOL_CALL):
            if not found or found[-1].results:  # a turn's calls are logged together, before any of their results
                found.append(Turn())
            said = orjson.loads(data)
            if kind == TOOL_CALL:
                found[-1].calls.append(said)
            elif kind == TOKEN and "field" not in said:
                found[-1].text += said["content"]
                found[-1].tokens += 1
    return found


def messages(answered: Sequence[Turn]) -> list[Message]:
    """Return the messages that tell the model its own turns and the results of its calls."""
    told: list[Message] = []
    for turn in answered:
        calls = [_call_message(call) for call in turn.calls]
        told.append({"role": "assistant", "content": turn.text or None, "tool_calls": calls})
        told += [
            {"role": "tool", "tool_call_id": call["id"], "content": turn.results[call["id"]]} for call in turn.calls
        ]
    return told


def result_text(result: dict[str, Any]) -> str:
    """Return what the model is told of a `tool_result` event."""
    text: str = result["content"] if "content" in result else f"Error: {result['error']}"
    return text


def _call_message(call: dict[str, Any]) -> Message:
    # Arguments that are no JSON are left out: the templates of some upstreams parse them, and fail. The result tells.
    arguments = {} if "raw" in call else call["arguments"]
    function = {"name": call["name"], "arguments": orjson.dumps(arguments).decode()}
    return {"id": call["id"], "type": "function", "function": function}
