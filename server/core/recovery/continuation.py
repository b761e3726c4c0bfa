"""Asks an upstream to go on from a partial answer, in the form that it knows (`continuation` in the configuration)."""

from collections.abc import Mapping
from typing import Any

from server.core.recovery.seam import Trim
from server.core.wide_json import sound

# Limits of the request. The delivered tokens count towards them.
LIMITS = ("max_tokens", "max_completion_tokens")
MARKS = {"prefix": {"prefix": True}, "partial": {"partial": True}}  # fields that mark the message to continue
HIGH_HALVES = "".join(map(chr, range(0xD800, 0xDC00)))  # of a character that was cut in two: it will come again
QUOTED = 600  # characters: how much of the delivered text's end a user turn quotes


def changes(form: str, body: Mapping[str, Any], text: str, tokens: int) -> tuple[dict[str, Any], Trim]:
    """Return what to change in `body` so that an upstream of this `form` goes on after `text`, and the seam's trim.

    `tokens` were delivered; the request's own limits shrink by them. A prefill has no white space at its end, because
    some upstreams refuse it and some templates drop it. If the upstream sends that white space again, the trim removes
    it.
    """
    prefill = text.rstrip().rstrip(HIGH_HALVES)
    fields: dict[str, Any] = {
        name: max(1, limit - tokens) for name in LIMITS if isinstance(limit := body.get(name), int)
    }
    if prefill:  # some refuse an empty message: the first request is then sent again, and trimmed
        fields |= _messages(form, body, sound(prefill))
    return fields, Trim(text, text[len(prefill) :], echo=form == "prefix", turn=form == "user_turn")


def _messages(form: str, body: Mapping[str, Any], prefill: str) -> dict[str, Any]:
    messages, last = list(body["messages"]), {"role": "assistant", "content": prefill}
    if _is_prefill(messages[-1]):  # the client's own: llama.cpp answers 400 to two assistant messages in a row
        client_prefill = messages.pop()
        last = {**client_prefill, "content": client_prefill["content"] + prefill}
    if form == "user_turn":
        return {"messages": [*messages, last, _instruction(prefill)]}
    fields: dict[str, Any] = {"messages": [*messages, {**last, **MARKS.get(form, {})}]}
    if form == "continue_final_message":
        fields |= {"continue_final_message": True, "add_generation_prompt": False, "echo": False}
    if form == "assistant" and isinstance(options := body.get("chat_template_kwargs"), dict):
        # llama.cpp answers 400 to a prefill while thinking is on.
        fields["chat_template_kwargs"] = {**options, "enable_thinking": False}
    return fields


def _is_prefill(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant" and isinstance(message.get("content"), str)


def _instruction(prefill: str) -> dict[str, str]:
    return {
        "role": "user",
        "content": "Your last message was cut off. Go on from exactly where it ends, without repeating anything and "
        f"without any introduction. It ends with:\n{prefill[-QUOTED:]}",
    }
