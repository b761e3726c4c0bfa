"""The tool loop of one stream: the server's calls are run, and the model is asked again with their results.

Which calls were made, which have a result, and what the model is told next all come from the log, so a call is never
run twice: not after an upstream's failure, and not after a crash. A call that was under way in a process that is gone
gets an error as its result, for nobody knows whether it took effect.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from server.core.errors import StreamError
from server.core.generation import Generation
from server.core.openai.tool_calls import ToolCall
from server.core.replay import LoggedTurn
from server.tools.bounded import Result
from server.tools.toolbox import Toolbox

MAX_QUOTED = 200  # characters of arguments that are no JSON, shown to the model again
LOST = "The gateway was stopped while this tool ran: whether it took effect is not known."

Message = dict[str, Any]


class Answer(NamedTuple):
    """A call of the server's with its result."""

    call: ToolCall
    result: Result


class ToolLoop:
    """Follows one generation; `generation` is the request of the running turn."""

    def __init__(self, toolbox: Toolbox, request: Generation) -> None:
        self._toolbox = toolbox
        self._request = request
        self._client_tools = tool_names(request.body)
        self._tools = {name: tool for name, tool in toolbox.tools().items() if name not in self._client_tools}
        self.generation = request
        if self._tools:
            self.generation = replace(request, body={**request.body, "tools": self._offers()})

    def _offers(self) -> list[dict[str, Any]]:
        return [*(self._request.body.get("tools") or ()), *(tool.offer() for tool in self._tools.values())]

    @property
    def client_tools(self) -> Collection[str] | None:
        """The names whose calls are the client's; None: the server runs nothing, so all of them are."""
        return self._client_tools if self._tools else None

    def due(self, called: Collection[ToolCall]) -> bool:
        """Whether a finished turn has calls for the server: its tools, and names that nobody has."""
        return bool(self._tools) and any(call.name not in self._client_tools and not call.incomplete for call in called)

    def resume(self, turns: Sequence[LoggedTurn]) -> None:
        """Go on after turns that an earlier relay of this stream has written."""
        answered = [turn for turn in turns if turn.answered]
        if answered:
            self._ask_again(answered)

    def check_limit(self, turns: Sequence[LoggedTurn]) -> None:
        """Raise StreamError if the model called tools in more than `max_rounds` turns; the last one is running."""
        limit = self._toolbox.max_rounds
        if sum(turn.answered for turn in turns[:-1]) >= limit:
            text = f"The model called tools in more than {limit} rounds."
            raise StreamError(text, "too_many_tool_rounds", 502)

    def run(self, calls: Sequence[ToolCall], *, lost: bool = False) -> list[asyncio.Task[Answer]]:
        """Run calls side by side; the tasks are the caller's to await and to cancel.

        `lost`: a relay that is gone may have run them, so they are not run again.
        """
        return [asyncio.create_task(self._answer(call, lost=lost), name=f"tool {call.name}") for call in calls]

    def next_request(self, turns: Sequence[LoggedTurn]) -> bool:
        """Make the request of the next turn, if every call of the last one has its result; return whether it has.

        Otherwise it is the client's turn: it has calls to answer.
        """
        if not all(call.server for call in turns[-1].calls):
            return False
        self._ask_again([turn for turn in turns if turn.answered])
        return True

    async def _answer(self, call: ToolCall, *, lost: bool) -> Answer:
        return Answer(call, Result(None, LOST, 0.0) if lost else await self._result(call))

    async def _result(self, call: ToolCall) -> Result:
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(sorted(self._tools.keys() | self._client_tools))
            return Result(None, f"There is no tool {call.name!r}. There are: {known}.", 0.0)
        if call.error is not None:
            return Result(None, f"{call.error} They were: {call.raw[:MAX_QUOTED]}", 0.0)
        if not isinstance(call.arguments, dict):
            return Result(None, "The arguments must be a JSON object.", 0.0)
        return await self._toolbox.bounds.run(tool, call.arguments)

    def _ask_again(self, answered: Sequence[LoggedTurn]) -> None:
        """Make the next turn's request; in the last one the model has to answer in words."""
        request = self._request.body
        body = {**request, "tools": self._offers(), "messages": [*request["messages"], *messages(answered)]}
        if request.get("tool_choice") not in (None, "none", "auto"):
            body["tool_choice"] = "auto"  # a tool that has to be called would be called for ever
        if len(answered) >= self._toolbox.max_rounds and not self._client_tools:
            body["tool_choice"] = "none"
        self.generation = replace(self._request, body=body)


def messages(answered: Sequence[LoggedTurn]) -> list[Message]:
    """Return the messages that tell the model its own turns and the results of its calls."""
    told: list[Message] = []
    for turn in answered:
        calls = [_call_message(call) for call in turn.calls]
        told.append({"role": "assistant", "content": turn.texts.get((0, "content")) or None, "tool_calls": calls})
        told += [{"role": "tool", "tool_call_id": call.id, "content": turn.results[call.id]} for call in turn.calls]
    return told


def _call_message(call: ToolCall) -> Message:
    # Arguments that are no JSON are left out: the templates of some upstreams parse them, and fail. The result tells.
    arguments = {} if call.error is not None else call.arguments
    function = {"name": call.name, "arguments": orjson.dumps(arguments).decode()}
    return {"id": call.id, "type": "function", "function": function}


def tool_names(body: dict[str, Any]) -> frozenset[str]:
    """Return the names of the tools that a request brings; their calls are the client's."""
    names = [tool.get("function") for tool in body.get("tools") or () if isinstance(tool, dict)]
    names += body.get("functions") or ()
    return frozenset(one["name"] for one in names if isinstance(one, dict) and isinstance(one.get("name"), str))
