"""The output of a response, built up by its events as a client builds it: items, their parts, and what is still open.

The writer's decisions follow from this state alone, and the events in the log are all that is needed to have it again.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.core.wide_json import paired
from server.dialects.responses import events

# Where the text of a delta goes: the array of parts in the item, the field that says which part, the text's field.
# Without an array, it is a field of the item itself.
PLACES: dict[str, tuple[str, str, str]] = {
    events.TEXT: ("content", "content_index", "text"),
    events.REFUSAL: ("content", "content_index", "refusal"),
    events.REASONING: ("content", "content_index", "text"),
    "response.reasoning_summary_text": ("summary", "summary_index", "text"),
    events.ARGUMENTS: ("", "", "arguments"),
    events.INPUT: ("", "", "input"),
    "response.mcp_call_arguments": ("", "", "arguments"),
    "response.code_interpreter_call_code": ("", "", "code"),
}
DELTAS = {f"{name}.delta": name for name in PLACES}
KINDS = {"output_text": events.TEXT, "refusal": events.REFUSAL, "reasoning_text": events.REASONING}
TALKING = ("message", "reasoning")  # items of which one at most is open


@dataclass(slots=True)
class Part:
    """The part that is open, in a message or in reasoning. `text` is in UTF-8, also with halves of surrogate pairs."""

    kind: str  # the name of its events, without the last word
    item: int
    index: int
    text: bytearray = field(default_factory=bytearray)


class Output:
    """The items so far. `open_item` is the message or reasoning that may still get parts."""

    def __init__(self) -> None:
        self.open_item: int | None = None
        self.part: Part | None = None
        self._items: list[dict[str, Any]] = []
        self._done: set[int] = set()
        self._texts: dict[tuple[str, int, int], bytearray] = {}  # that grow, by kind, item and part
        self._whole: set[tuple[str, int, int]] = set()  # the texts that are done

    def __len__(self) -> int:
        return len(self._items)

    @property
    def unfinished(self) -> list[int]:
        """The places of the items that are not done."""
        return [index for index in range(len(self._items)) if index not in self._done]

    @property
    def calls(self) -> set[str]:
        """The ids of all calls so far."""
        return {str(item["call_id"]) for item in self._items if "call_id" in item}

    def item(self, index: int) -> dict[str, Any]:
        """Return one item as it is now."""
        self._write_texts(index)
        return self._items[index]

    def items(self, status: str | None = None) -> list[dict[str, Any]]:
        """Return all items as they are now. Those that are not done get `status`, if one is given and they have one."""
        for index in self.unfinished:
            self._write_texts(index)
        return [
            {**item, "status": status} if status and index not in self._done and "status" in item else item
            for index, item in enumerate(self._items)
        ]

    def _write_texts(self, index: int) -> None:
        for (kind, item, part), text in self._texts.items():
            if item == index:
                self._set_text(kind, item, part, text.decode("utf-8", "surrogatepass"))

    def _set_text(self, kind: str, item: int, part: int, text: str) -> None:
        array, _, name = PLACES[kind]
        holder = self._items[item][array][part] if array else self._items[item]
        holder[name] = paired(text)

    def add(self, kind: str, event: Mapping[str, Any]) -> None:
        """Take in one event. Those that change no item are passed over.

        Raises:
            LookupError: it is about an item or a part that is not there.

        """
        if (name := DELTAS.get(kind)) is not None:  # nearly every event
            self._add_text(name, event)
            return
        match kind:
            case events.ITEM_ADDED:
                self._add_item(dict(event["item"]))
            case events.ITEM_DONE:
                self._finish_item(event["output_index"], dict(event["item"]))
            case events.PART_ADDED:
                self._add_part(event)
            case events.PART_DONE:
                self._items[event["output_index"]]["content"][event["content_index"]] = dict(event["part"])
                self.part = None
            case events.ANNOTATION:
                part = self._items[event["output_index"]]["content"][event["content_index"]]
                part["annotations"].append(event["annotation"])
            case "response.reasoning_summary_part.added":
                self._items[event["output_index"]]["summary"].append(dict(event["part"]))
            case "response.reasoning_summary_part.done":
                self._items[event["output_index"]]["summary"][event["summary_index"]] = dict(event["part"])
            case _:
                name, _, step = kind.rpartition(".")
                if name in PLACES and step == "done":
                    self._finish_text(name, event)

    def _add_item(self, item: dict[str, Any]) -> None:
        self._items.append(copy.deepcopy(item))
        if item.get("type") in TALKING:
            self.open_item = len(self._items) - 1

    def _finish_item(self, index: int, item: dict[str, Any]) -> None:
        self._items[index] = item
        self._done.add(index)
        for key in [key for key in self._texts if key[1] == index]:
            del self._texts[key]
        if self.open_item == index:
            self.open_item = self.part = None

    def _add_part(self, event: Mapping[str, Any]) -> None:
        item, index, part = event["output_index"], event["content_index"], dict(event["part"])
        self._items[item].setdefault("content", []).append(copy.deepcopy(part))
        if (kind := KINDS.get(part.get("type", ""))) is not None:
            self.part = Part(kind, item, index)
            self._texts[kind, item, index] = self.part.text

    def _add_text(self, kind: str, event: Mapping[str, Any]) -> None:
        index = PLACES[kind][1]
        key = (kind, event["output_index"], event[index] if index else 0)
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = bytearray()
        text += encoded(event["delta"])
        if event.get("logprobs"):
            part = self._items[event["output_index"]]["content"][event["content_index"]]
            part.setdefault("logprobs", []).extend(event["logprobs"])

    def _finish_text(self, kind: str, event: Mapping[str, Any]) -> None:
        _, index, name = PLACES[kind]
        key = (kind, event["output_index"], event[index] if index else 0)
        self._texts.pop(key, None)
        self._whole.add(key)
        self._set_text(*key, event[name])

    def is_whole(self, kind: str, item: int, part: int = 0) -> bool:
        """Whether a text is done. A log may end behind that event, and before the end of the part or item."""
        return (kind, item, part) in self._whole


def encoded(text: str) -> bytes:
    """Return a text in UTF-8. A half of a surrogate pair is kept, because its other half may follow."""
    return text.encode("utf-8", "surrogatepass")
