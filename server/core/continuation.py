"""How each kind of upstream is asked to go on from a partial answer (`continuation` in the configuration)."""

from typing import Any

from server.core.seam import Trim

# Sampling limits that count what was already delivered.
LIMITS = ("max_tokens", "max_completion_tokens")
QUOTED = 600  # characters of the delivered end that a user turn quotes


def changes(form: str, body: dict[str, Any], text: str, tokens: int) -> tuple[dict[str, Any], Trim]:
    """Return what to change in `body` so that an upstream of this `form` goes on after `text`, and the seam's trim.

    `tokens` were delivered; the request's own limits shrink by them. Trailing white space is left out of a prefill:
    some upstreams refuse it and some templates drop it, and the trim takes it away again where it comes back.
    """
    messages = body["messages"]
    prefill = text.rstrip()
    stripped = text[len(prefill) :]
    changed: dict[str, Any] = {}
    if form == "user_turn":
        changed["messages"] = [*messages, {"role": "assistant", "content": prefill}, _ask(prefill)]
    else:
        mark = {"prefix": {"prefix": True}, "partial": {"partial": True}}.get(form, {})
        changed["messages"] = [*messages, {"role": "assistant", "content": prefill, **mark}]
        if form == "continue_final_message":
            changed |= {"continue_final_message": True, "add_generation_prompt": False, "echo": False}
    for name in LIMITS:
        if isinstance(limit := body.get(name), int):
            changed[name] = max(1, limit - tokens)
    return changed, Trim(text, stripped, echo=form == "prefix", turn=form == "user_turn")


def _ask(prefill: str) -> dict[str, str]:
    return {
        "role": "user",
        "content": "Your last message was cut off. Go on from exactly where it ends, without repeating anything and "
        f"without any introduction. It ends with:\n{prefill[-QUOTED:]}",
    }
