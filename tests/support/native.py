"""A client of the native protocol, for tests."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import wire

TOOLS = Path(__file__).parent  # where the module of the tools is
sys.path.insert(0, str(TOOLS))
ALL = {name: f"tool_examples:{name}" for name in ("add", "fail", "hang", "huge", "slowly")}  # [tools.functions]
LOOK = {"type": "function", "function": {"name": "look", "strict": True, "parameters": {"type": "object"}}}


class Event(NamedTuple):
    """One native event, decoded."""

    id: int
    type: str
    data: dict[str, Any]


def decoded(events: Iterable[wire.Event]) -> list[Event]:
    """Decode native events. Raises AssertionError where `event:` and `type` do not agree."""
    found = [Event(event.id, event.event, json.loads(event.data)) for event in events]
    assert all(event.type == event.data["type"] for event in found)
    return found


async def ask(root: str, model: str, *, headers: Mapping[str, str] | None = None, **fields: Any) -> wire.Answer:
    """Make one native request and read all of its answer."""
    body = {"model": model, **({} if "messages" in fields else {"prompt": "Say it."}), **fields}
    return await wire.call(root, "POST", "/api/stream", body, headers)


async def events(root: str, model: str, **fields: Any) -> list[Event]:
    """Make one native request that succeeds; return its events, which are numbered from 1 without a gap."""
    answer = await ask(root, model, **fields)
    assert answer.status == 200, answer.body
    found = decoded(answer.events)
    assert [event.id for event in found] == list(range(1, len(found) + 1))
    assert [event.type for event in found].count("done") == 1
    assert found[-1].type == "done"
    return found


def types(found: Iterable[Event]) -> list[str]:
    """Give the types of events, with a run of the same type as one."""
    kinds: list[str] = []
    for event in found:
        if kinds[-1:] != [event.type]:
            kinds.append(event.type)
    return kinds


def text(found: Iterable[Event]) -> str:
    """Give the content of all tokens."""
    return "".join(event.data["content"] for event in found if event.type == "token")


def of(found: Iterable[Event], kind: str) -> list[dict[str, Any]]:
    """Give the data of all events of one type."""
    return [event.data for event in found if event.type == kind]


def call(name: str, arguments: Any = None, **more: Any) -> dict[str, Any]:
    """Give one tool call for a script of the provider."""
    return {"name": name, "arguments": {} if arguments is None else arguments, **more}


def ran(marks: Path) -> Counter[str]:
    """Count the calls of each tool, from the file of marks."""
    return Counter(marks.read_text(encoding="utf-8").splitlines())
