"""The calls of one attempt, as they come: which of them may be shown, and the part of its arguments that is new."""

from collections.abc import Mapping
from typing import Any

from server.core.openai.tool_calls import PartialCall, ToolCalls
from server.dialects.responses.custom_input import CustomInput
from server.dialects.responses.items import added_tools
from server.dialects.responses.tools import Tool, Tools

EMPTY = ("", "{}", "null")  # arguments of a call of a tool without parameters, or the beginning of others


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
        """Whether the call can be shown: its name is whole, and so are arguments that are no object.

        Some proxies send `{}` before the arguments. What was shown cannot be taken back, so that waits for more.
        """
        arguments = self.partial.arguments.getvalue().strip()
        return bool(self.partial.name) and arguments.startswith("{") and arguments != "{}"

    def begin(self, item: int) -> None:
        """Note that the call is shown."""
        self.item = item
        if self.tool.kind == "custom":
            self._custom = CustomInput()

    def take(self, *, last: bool = False) -> str:
        """Return the text to show that was not shown yet. `last`: no more of the arguments will come."""
        arguments = self.partial.arguments
        arguments.seek(self._read)
        text = arguments.read()
        if not self._read:
            stripped = text.strip()
            if stripped in EMPTY:
                text = "{}"
            elif stripped.startswith("{}"):
                text = stripped[2:]
        self._read = arguments.tell()
        if self._custom is None:
            return text
        return self._custom.feed(text) + (self._custom.finish() if last else "")


class Calls:
    """All calls of one attempt, in the order in which they came. `source`: the client's request."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source
        self._tools: Tools | None = None
        self._assembled = ToolCalls()
        self._calls: dict[PartialCall, Call] = {}

    def feed(self, delta: dict[str, Any]) -> list[Call]:
        """Return the calls that a delta has a piece of, each once. Raises StreamError: too many, or too large."""
        if self._tools is None:
            self._tools = tools_of(self._source)
        touched = []
        for partial in self._assembled.feed(delta):
            call = self._calls.get(partial)
            if call is None:
                call = self._calls[partial] = Call(partial, self._tools)
            touched.append(call)
        return list(dict.fromkeys(touched))

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
