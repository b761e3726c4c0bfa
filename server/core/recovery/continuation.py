"""How each kind of upstream is asked to go on from a partial answer (`continuation` in the configuration)."""

from typing import Any

from server.core.recovery.seam import Trim

# Sampling limits that count what was already delivered.
LIMITS = ("max_tokens", "max_completion_tokens")
MARKS = {"prefix": {"prefix": True}, "partial": {"partial": True}}  # on the message that is to be continued
QUOTED = 600  # characters of the delivered end that a user turn quotes


def changes(form: str, body: dict[str, Any], text: str, tokens: int) -> tuple[dict[str, Any], Trim]:
    """Return what to change in `body` so that an upstream of this `form` goes on after `text`, and the seam's trim.

    `tokens` were delivered; the request's own limits shrink by them. Trailing white space is left out of a prefill:
    some upstreams refuse it and some templates drop it, and the trim takes it away again where it comes back.
    """
    prefill = text.rstrip()
    changed: dict[str, Any] = {
        name: max(1, limit - tokens) for name in LIMITS if isinstance(limit := body.get(name), int)
    }
    if prefill:  # an empty message is refused by some; nothing but white space is begun anew, and trimmed
        changed |= _messages(form, body, prefill)
    return changed, Trim(text, text[len(prefill) :], echo=form == "prefix", turn=form == "user_turn")


def _messages(form: str, body: dict[str, Any], prefill: str) -> dict[str, Any]:
    messages, last = list(body["messages"]), {"role": "assistant", "content": prefill}
    if _is_prefill(messages[-1]):  # the client's own: two assistant messages in a row are a 400 (llama.cpp)
        mine = messages.pop()
        last = {**mine, "content": mine["content"] + prefill}
    if form == "user_turn":
        return {"messages": [*messages, last, _ask(prefill)]}
    changed: dict[str, Any] = {"messages": [*messages, {**last, **MARKS.get(form, {})}]}
    if form == "continue_final_message":
        changed |= {"continue_final_message": True, "add_generation_prompt": False, "echo": False}
    if form == "assistant" and isinstance(options := body.get("chat_template_kwargs"), dict):
        changed["chat_template_kwargs"] = {**options, "enable_thinking": False}  # llama.cpp: else a prefill is a 400
    return changed


def _is_prefill(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "assistant" and isinstance(message.get("content"), str)


def _ask(prefill: str) -> dict[str, str]:
    return {
        "role": "user",
        "content": "Your last message was cut off. Go on from exactly where it ends, without repeating anything and "
        f"without any introduction. It ends with:\n{prefill[-QUOTED:]}",
    }
