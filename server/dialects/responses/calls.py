"""The calls of one attempt, as they come: which of them may be shown, and the part of its arguments that is new."""

from collections.abc import Mapping
from typing import Any

from server.core.openai.tool_calls import PartialCall, ToolCalls
from server.dialects.responses.custom_input import CustomInput
from server.dialects.responses.items import added_tools
from server.dialects.responses.tools import Tool, Tools


class Call:
    """One call. `item` is its place in the output, once it is shown."""

    def __init__(self, partial: PartialCall, tools: Tools) -> None:
        self.partial = partial
        self.item: int | None = None
        self._tools = tools
        self._read = 0  # characters of the arguments
        self._custom: CustomInput | None = None

    @property
    def tool(self) -> Tool:
        """The client's tool."""
        return self._tools.tool(self.partial.name)

    @property
    def ready(self) -> bool:
        """Whether the call can be shown: its name is whole, because its arguments have begun."""
        return bool(self.partial.name) and _begun(self.partial.arguments.getvalue())

    def begin(self, item: int) -> None:
        """Note that the call is shown."""
        self.item = item
        if self.tool.kind == "custom":
            self._custom = CustomInput()

    def take(self, *, last: bool = False) -> str:
        """Return the text to show that was not shown yet. `last`: no more of the arguments will come.

        What was shown cannot be taken back. So arguments that are no object wait until they are whole.
        """
        arguments = self.partial.arguments
        arguments.seek(self._read)
        text = arguments.read()
        if not self._read and not last and not _begun(text):
            return ""
        if not self._read and (stripped := text.strip()).startswith("{}"):
            text = stripped[2:]
        if not self._read and text.strip() in ("", "null"):  # a tool without parameters
            text = "" if self._custom else "{}"
        self._read = arguments.tell()
        if self._custom is None:
            return text
        return self._custom.feed(text) + (self._custom.finish() if last else "")


def _begun(arguments: str) -> bool:
    """Whether arguments are the beginning of an object that is not empty. Some proxies send `{}` before it."""
    stripped = arguments.strip()
    return stripped.startswith("{") and stripped != "{}"


class Calls:
    """All calls of one attempt, in the order in which they came. `source`: the client's request."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source
        self._tools: Tools | None = None
        self._assembled = ToolCalls()
        self._calls: dict[PartialCall, Call] = {}
        self._waiting: list[Call] = []  # that are not shown, because their arguments have not begun

    def feed(self, delta: dict[str, Any]) -> list[Call]:
        """Return the calls to show, in their order: those that a delta has a piece of, and those that waited for them.

        Raises:
            StreamError: there are too many, or they are too large.

        """
        if self._tools is None:
            self._tools = tools_of(self._source)
        touched = dict.fromkeys(self._assembled.feed(delta))
        for partial in touched:
            if partial not in self._calls:
                self._calls[partial] = Call(partial, self._tools)
                self._waiting.append(self._calls[partial])
        ready = [place for place, call in enumerate(self._waiting, 1) if call.ready]
        shown, self._waiting = self._waiting[: max(ready, default=0)], self._waiting[max(ready, default=0) :]
        known = [self._calls[partial] for partial in touched]
        return [call for call in shown if call.partial.name] + [
            call for call in known if call.item is not None and call not in shown
        ]

    def all(self) -> list[Call]:
        """Return all calls that have a name. An upstream may send an empty piece between two calls."""
        return [call for call in self._calls.values() if call.partial.name]


def tools_of(source: Mapping[str, Any]) -> Tools:
    """Return the tools of a request that was checked before."""
    tools = Tools(source.get("tools"))
    items = source.get("input")
    for path, listed in added_tools(items if isinstance(items, list) else []):
        tools.add(listed, path)
    return tools
