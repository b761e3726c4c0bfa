"""The tool loop of one stream: the server's calls are run, and the model is asked again with their results.

Which calls were made, which have a result, and what the model is told next all come from the log, so a call is never
run twice: not after an upstream's failure, and not after a crash. A call that was under way in a process that is gone
gets an error as its result, for nobody knows whether it took effect.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from server.core.conversation import Turn, messages, turns
from server.core.errors import StreamError
from server.core.generation import Generation
from server.core.native import TOOL_RESULT, event
from server.core.openai.tool_calls import ToolCall
from server.core.records import Record
from server.tools.bounded import Result
from server.tools.toolbox import Toolbox

MAX_QUOTED = 200  # characters of arguments that are no JSON, shown to the model again
LOST = "The gateway was stopped while this tool ran: whether it took effect is not known."
Read = Callable[[], Awaitable[Sequence[Record]]]
Append = Callable[[Sequence[Record]], Awaitable[None]]


class ToolLoop:
    """Follows one native generation; `generation` is the request of the running round."""

    def __init__(self, toolbox: Toolbox, asked: Generation) -> None:
        self._toolbox = toolbox
        self._asked = asked
        self._theirs = client_tools(asked.body)
        self._tools = {name: tool for name, tool in toolbox.tools().items() if name not in self._theirs}
        self.generation = asked if not self._tools else replace(asked, body={**asked.body, "tools": self._offers()})

    def _offers(self) -> list[dict[str, Any]]:
        return [*(self._asked.body.get("tools") or ()), *(tool.offer() for tool in self._tools.values())]

    def serves(self, name: str) -> bool:
        """Whether the server answers calls of this name: its tools, and names that nobody has."""
        return bool(self._tools) and name not in self._theirs

    def due(self, called: Collection[ToolCall]) -> bool:
        """Whether a finished turn has calls for the server."""
        return any(self.serves(call.name) and not call.incomplete for call in called)

    def take_up(self, told: Sequence[Turn]) -> None:
        """Go on after turns that an earlier relay of this stream has written."""
        answered = [turn for turn in told if turn.answered]
        if answered:
            self._ask_again(answered, last=len(answered) >= self._toolbox.max_rounds)

    async def run(self, read: Read, append: Append, *, lost: bool = False) -> bool:
        """Answer the calls that the log owes a result, each as it comes; return whether another round follows.

        `lost`: a relay that is gone may have run them, so they are not run again.

        Raises:
            StreamError: the model called tools in more than `max_rounds` rounds.

        """
        *earlier, running = turns(await read())
        made, limit = sum(1 for turn in earlier if turn.answered), self._toolbox.max_rounds
        if made >= limit:
            words = f"The model called tools in more than {limit} rounds."
            raise StreamError(words, "too_many_tool_rounds", 502)
        tasks = [asyncio.ensure_future(self._answer(call, lost=lost)) for call in running.owed]
        try:
            for answer in asyncio.as_completed(tasks):
                await append([await answer])
        finally:
            for task in tasks:
                task.cancel()
        if not all(call["server"] for call in running.calls):
            return False  # the client's turn
        self._ask_again([turn for turn in turns(await read()) if turn.answered], last=made + 1 >= limit)
        return True

    async def _answer(self, call: dict[str, Any], *, lost: bool) -> Record:
        result = Result(None, LOST, 0.0) if lost else await self._result(call)
        return event(TOOL_RESULT, id=call["id"], name=call["name"], **result.fields())

    async def _result(self, call: dict[str, Any]) -> Result:
        name, arguments = call["name"], call["arguments"]
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(sorted(self._tools.keys() | self._theirs))
            return Result(None, f"There is no tool {name!r}. There are: {known}.", 0.0)
        if "raw" in call:
            return Result(None, f"{call['error']} They were: {call['raw'][:MAX_QUOTED]}", 0.0)
        if not isinstance(arguments, dict):
            return Result(None, "The arguments must be a JSON object.", 0.0)
        return await self._toolbox.bounds.run(tool, arguments)

    def _ask_again(self, answered: Sequence[Turn], *, last: bool) -> None:
        """Make the next round's request; in the `last` one the model has to answer in words."""
        asked = self._asked.body
        body = {**asked, "tools": self._offers(), "messages": [*asked["messages"], *messages(answered)]}
        if asked.get("tool_choice") not in (None, "none", "auto"):
            body["tool_choice"] = "auto"  # a tool that has to be called would be called for ever
        if last and not self._theirs:
            body["tool_choice"] = "none"
        self.generation = replace(self._asked, body=body)


def client_tools(body: dict[str, Any]) -> frozenset[str]:
    """Return the names of the tools that a request brings; their calls are the client's."""
    names = [tool.get("function") for tool in body.get("tools") or () if isinstance(tool, dict)]
    names += body.get("functions") or ()
    return frozenset(one["name"] for one in names if isinstance(one, dict) and isinstance(one.get("name"), str))
