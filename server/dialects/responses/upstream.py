"""An upstream that speaks Responses: how it is asked, and what its events mean.

For a client that speaks Responses, too, request and events go through as they are. Numbers and the id of the response
are the gateway's, because another attempt may have to go on where this one breaks off.

A response in the background goes on without its connection. Those of its events that come after a number can be had
again (https://platform.openai.com/docs/guides/background#streaming-a-background-response).
"""

import re
from collections.abc import Sequence
from typing import Any

from server.core.body import Body
from server.core.errors import Kind, UpstreamError
from server.core.generation import Generation
from server.core.openai.chunks import DONE_DATA, Chunk
from server.core.openai.frames import says_something, value_of
from server.core.openai.sse import Event
from server.core.recovery.classify import in_band
from server.core.upstream_api import Background, Piece, Translator, UpstreamApi
from server.core.wide_json import dumps
from server.dialects.responses import events
from server.dialects.responses.delta import image_part
from server.dialects.responses.from_chat import responses_body
from server.dialects.responses.reader import Chunks, finish_reason
from server.dialects.responses.request import EARLIER
from server.dialects.responses.tools import chat_name

NOTHING: Chunk = {"choices": []}
MAX_COUNT = 1 << 53
IDENTITY = re.compile(r"[A-Za-z0-9_-]{1,256}")  # of a response, as a path may have it


class ResponsesApi(UpstreamApi):
    """OpenAI's Responses (https://platform.openai.com/docs/api-reference/responses)."""

    name = events.API
    path = "/responses"

    def body(
        self,
        generation: Generation,
        model: str,
        *,
        ask_usage: bool,  # noqa: ARG002 — Responses always has it
        drop_usage: bool,  # noqa: ARG002
        changes: dict[str, Any] | None,
    ) -> bytes:
        """Return the client's own request, or the chat request in the words of Responses."""
        if changes or not _is_own(generation):
            return dumps(responses_body({**generation.body, **(changes or {})}, model, stream=generation.stream))
        source = generation.logged
        fields: dict[str, Any] = {"model": model, "stream": True}
        if earlier := source.get(EARLIER):
            given = source.get("input") or []
            fields["input"] = [*earlier, *([{"role": "user", "content": given}] if isinstance(given, str) else given)]
        # The response that this one goes on from is the gateway's, and so is one that outlives its client.
        left_out = {EARLIER, "previous_response_id", "background"}
        return dumps({**{name: source[name] for name in source if name not in left_out}, **fields})

    def in_background(self, body: bytes, generation: Generation, when: Background) -> bytes | None:
        """Return the body of a request for a response in the background, which is always a stored one.

        A client that does not want its response stored does not get it stored.
        """
        request = Body.read(body)
        asked = generation.logged.get("store") is not False and when == "always"
        if generation.dialect == events.API and when != "never" and generation.logged.get("background"):
            asked = True
        return request.changed({"background": True, "store": True}) if asked else None

    def translator(self) -> Translator | None:
        """Return what reads the events of one attempt."""
        return ResponsesTranslator()

    def again(self, running: str) -> str:
        """Return the path that gives the events of a response from the first."""
        return f"{self.path}/{running}?stream=true"

    def cancelling(self, running: str) -> str:
        """Return the path that cancels a response."""
        return f"{self.path}/{running}/cancel"

    def whole(self, answer: Chunk) -> Chunk:
        """Return a response as a chat completion. Raises UpstreamError if it failed."""
        reason = finish_reason(answer)
        if reason is None:
            raise _failure(answer)
        message: Chunk = {"role": "assistant", "content": None}
        try:
            for item in answer.get("output") or ():
                _add_to_message(message, item)
        except (LookupError, TypeError, AttributeError) as error:
            raise UpstreamError(Kind.UNUSABLE, "The upstream's response has an item that cannot be read.") from error
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        identity = {"id": answer.get("id"), "object": "chat.completion", "created": _created(answer)}
        return {**identity, "model": answer.get("model"), "choices": [choice], "usage": chat_usage(answer)}


def _is_own(generation: Generation) -> bool:
    """Whether the client speaks Responses, and no function of the operator's has changed its chat request."""
    return generation.dialect == events.API and generation.source is not None and not generation.changed


class ResponsesTranslator(Translator):
    """Reads events as chunks. `done`: the response is over."""

    def __init__(self) -> None:
        self.done = False
        self.running = ""
        self._last: int | None = -1  # the number of the last event; None: the events are not numbered one by one
        self._resumed = False
        self._head: Chunk = {}
        self._chunks = Chunks()

    def rest(self) -> str:
        """Return the path of the events after the last one, if the response is in the background."""
        if not self.running or self._last is None:
            return ""
        self._resumed = True
        return f"{ResponsesApi.path}/{self.running}?stream=true&starting_after={self._last}"

    def read(self, event: Event) -> Sequence[Piece]:
        """Return one piece for each event. Raises UpstreamError if it is an error, or no event of Responses.

        What comes for the rest of a response goes on behind the last event, or is an error.
        """
        if event.data.startswith(DONE_DATA):
            if self._resumed:
                raise self._gap("the end")
            self.done = True
            return ()
        value = value_of(event)
        if event.type == b"error" or (isinstance(value, dict) and value.get("type") == "error"):
            nested = value.get("error") if isinstance(value, dict) else None
            raise in_band({"error": nested} if says_something(nested) else value)
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            return ()
        number = value.get("sequence_number")
        if number is None and not kind.startswith("response."):
            return ()  # what only keeps a connection alive
        if self._resumed and (number.__class__ is not int or self._last is None or number > self._last + 1):
            raise self._gap(f"event {str(number)[:20]}")
        if self._resumed and number <= self._last:
            return ()
        try:
            pieces = [Piece(event.data, self._chunk(kind, value), events.API)]
            # A chat completion has the usage in a chunk of its own: a client that adds usages up would count it twice.
            if kind in events.TERMINAL and (usage := chat_usage(value["response"])):
                chunk = {**self._head, "choices": [], "usage": usage}
                pieces.append(Piece(dumps(chunk), chunk))
        except (LookupError, TypeError, AttributeError) as error:
            raise UpstreamError(Kind.UNUSABLE, f"The upstream's event {kind[:100]!r} cannot be read.") from error
        self._last = number if self._last is not None and number == self._last + 1 else None
        return pieces

    def _gap(self, what: str) -> UpstreamError:
        """Return the error of a rest that does not begin where the events broke off."""
        after, self._last = self._last, None
        return UpstreamError(Kind.UNUSABLE, f"The upstream resumed a response after event {after} with {what}.")

    def _chunk(self, kind: str, event: dict[str, Any]) -> Chunk:
        if kind == events.CREATED:
            response = event["response"]
            identity = {"id": response["id"], "created": _created(response), "model": response.get("model")}
            self._head = {"object": "chat.completion.chunk", **identity}
            if response.get("background") is True and IDENTITY.fullmatch(response["id"]):
                self.running = response["id"]
        elif kind in events.TERMINAL:
            self.running = ""
            end = self._chunks.end(event["response"])
            if end is None:
                raise _failure(event["response"])
            self.done = True
            return self._of(*end)
        delta = self._chunks.delta(kind, event)
        return NOTHING if delta is None else self._of(delta)

    def _of(self, delta: Chunk, reason: str | None = None) -> Chunk:
        return {**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def chat_usage(response: Chunk) -> dict[str, Any] | None:
    """Return the `usage` of a response as a chat completion has it."""
    usage = response.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = {
        "prompt_tokens": usage.get("input_tokens"),
        "completion_tokens": usage.get("output_tokens"),
        "total_tokens": usage.get("total_tokens"),
        "prompt_tokens_details": usage.get("input_tokens_details"),
        "completion_tokens_details": usage.get("output_tokens_details"),
    }
    return {name: value for name, value in counts.items() if value is not None}


def _add_to_message(message: Chunk, item: Any) -> None:
    match item.get("type") if isinstance(item, dict) else None:
        case "message" | "reasoning" as kind:
            for part in item.get("content") or ():
                name = "refusal" if part.get("type") == "refusal" else "content"
                if kind == "reasoning":
                    name = "reasoning_content"
                message[name] = (message.get(name) or "") + str(part.get("refusal") or part.get("text") or "")
        case "function_call" | "custom_tool_call" as kind:
            arguments = item["arguments"] if kind == "function_call" else dumps({"input": item["input"]}).decode()
            function = {"name": chat_name(item["name"], item.get("namespace")), "arguments": arguments}
            call = {"id": item["call_id"], "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
        case events.IMAGE if (image := item.get("result")) and isinstance(image, str):
            message.setdefault("images", []).append(image_part(image))


def _failure(response: Chunk) -> UpstreamError:
    error = response.get("error")
    if says_something(error):
        return in_band({"error": error})
    return UpstreamError(Kind.IN_BAND, f"The upstream's response ended as {str(response.get('status'))[:50]!r}.")


def _created(response: Chunk) -> int:
    created = response.get("created_at")
    return int(created) if isinstance(created, int | float) and 0 <= created < MAX_COUNT else 0
