"""Reads the bodies of upstreams' errors: what went wrong, in the upstream's own words, wherever it says them."""

import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

MAX_DEPTH = 6  # objects within each other that are looked into
MAX_ITEMS = 20  # of an array
# Characters of a text that are read. Clients get far less of it (core/recovery/present.py): what is cut here is no part
# of a secret that they see.
MAX_TEXT = 65_536
TITLE = re.compile(r"<title[^<>]*>([^<]{1,200})</title>", re.IGNORECASE)
SAFE_INTEGER = 2**53  # past it a JSON number is no exact one for JavaScript, and orjson writes none past 64 bits

# Where an error is, from the outside in. The first one that is there is looked into.
SHELLS = {
    "error": "OpenAI (platform.openai.com/docs/guides/error-codes), Anthropic, Gemini, Groq, DeepSeek, Azure",
    "errors": "Cloudflare Workers AI: an array",
    "base_resp": "MiniMax",
}
# Where an object says its message, the best place first. A value may be a text, an object or an array of them.
MESSAGES = {
    "message": "OpenAI and most; vLLM, without a shell; Mistral, with an object in it; Cohere; Bedrock",
    "msg": "FastAPI: one validation error",
    "detail": "FastAPI (fastapi.tiangolo.com/tutorial/handling-errors); RFC 9457",
    "details": "Triton",
    "error": "TGI, Ollama, Hugging Face: a text in place of the shell",
    "errors": "GraphQL's kind",
    "error_message": "Replicate's kind",
    "error_msg": "Qianfan",
    "errorMessage": "AWS Lambda",
    "Message": "Bedrock's front",
    "status_msg": "MiniMax",
    "description": "Google: `fieldViolations`",
    "title": "RFC 9457",
    "raw": "OpenRouter: the words of the provider behind it, often JSON in a text",
}
CODES = {
    "code": "OpenAI and most",
    "error_code": "Databricks, Qianfan",
    "status_code": "MiniMax",
    "__type": "Bedrock",
}
TYPES = {"type": "OpenAI and most", "error_type": "TGI, router/src/lib.rs", "status": "Google: INVALID_ARGUMENT"}
# Where an error says more than its message does. Clients look there: these are passed on as they are.
PLACES = {
    "metadata": "OpenRouter (openrouter.ai/docs/api/reference/errors-and-debugging): `raw`, `provider_name`, `reasons`",
    "innererror": "Azure: `content_filter_result`",
    "inner_error": "Azure, in older versions",
    "details": "Google: `fieldViolations`, `RetryInfo`, `QuotaFailure`",
    "detail": "FastAPI, Mistral: the validation errors",
    "failed_generation": "Groq: the tool call that the model got wrong",
}


class ErrorBody(NamedTuple):
    """What an error body says. `names` are all its codes, types and reasons, in lower case."""

    message: str
    code: str
    type: str
    param: str
    names: frozenset[str]
    places: dict[str, Any]  # what it says in places of its own
    page: bool = False  # it is a page of HTML: of a proxy, and no API's answer


def read(body: object) -> ErrorBody:
    """Read a body: parsed JSON, or a text, or anything."""
    if isinstance(body, str) and body.lstrip()[:1] == "<":
        title = TITLE.search(body, 0, MAX_TEXT)
        return ErrorBody(title[1].strip() if title else "", "", "", "", frozenset(), {}, page=True)
    body = _parsed(body)
    error = _unpacked(body)
    outer = body if isinstance(body, dict) else {}
    message = error.get("message")
    sources = (outer, message if isinstance(message, dict) else {}, error)  # Mistral has an object as its message
    return ErrorBody(
        message=_message(error, outer),
        code=_first(error, CODES) or _first(outer, CODES),
        type=_first(error, TYPES) or _first(outer, TYPES),
        param=_text(error.get("param")),
        names=frozenset(name.lower() for source in (error, outer) for name in _names(source)),
        places={
            name: safe(value)
            for source in sources
            for name in PLACES
            if isinstance(value := source.get(name), dict | list) or (value and name == "failed_generation")
        },
    )


def safe(value: object, depth: int = 0) -> Any:
    """Return a value that can be written as JSON anywhere: no surrogates, no numbers out of range, not too deep."""
    if isinstance(value, str):
        return value[:MAX_TEXT].encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < SAFE_INTEGER else "a number out of range"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth >= MAX_DEPTH:
        return None
    if isinstance(value, list):
        return [safe(item, depth + 1) for item in value[:MAX_ITEMS]]
    if isinstance(value, dict):
        return {safe(str(name)): safe(item, depth + 1) for name, item in list(value.items())[:MAX_ITEMS]}
    return None


def _parsed(value: object) -> object:
    """Return the JSON that a text holds, or the value as it is."""
    if isinstance(value, str) and len(value) <= MAX_TEXT and value.lstrip()[:1] in ("{", "["):
        try:
            return orjson.loads(value.encode("utf-8", "replace"))
        except orjson.JSONDecodeError:
            return value
    return value


def _unpacked(body: object) -> dict[str, Any]:
    """Return the innermost error object."""
    for _ in range(MAX_DEPTH):
        if isinstance(body, dict):
            inners = (_parsed(body.get(name)) for name in SHELLS)
            inner = next((inner for inner in inners if inner and isinstance(inner, dict | list)), None)
            if inner is None:
                return body
            body = inner
        elif isinstance(body, list) and body and isinstance(body[0], dict) and "msg" not in body[0]:
            body = body[0]  # Gemini
        else:
            body = {"message": body}  # a text; or FastAPI's validation errors, all of which count
    return {}


def _message(error: dict[str, Any], outer: dict[str, Any]) -> str:
    """Return an error's message, with the reason that it gives elsewhere if the message lacks it."""
    message = _words(error)
    if error is outer and isinstance(outer.get("error"), str) and outer["error"] not in message:
        message = f"{outer['error']}: {message}"  # Spring: the status' name, and the message beside it
    if not message and error is not outer:
        message = _words({name: value for name, value in outer.items() if name not in SHELLS})
    for name in ("metadata", "innererror", "inner_error", "details"):
        reason = _words(error.get(name), own=True)
        if reason and reason not in message:
            message = f"{message}: {reason}" if message else reason
    return str(safe(message))


def _words(value: object, depth: int = 0, *, own: bool = False) -> str:
    """Return the message that a value holds, or an empty string. `own`: a text alone is no message."""
    if isinstance(value, str):
        parsed = _parsed(value)
        if parsed is not value and depth < MAX_DEPTH:
            return _words(parsed, depth + 1)
        return "" if own else value[:MAX_TEXT].strip()
    if depth >= MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return "; ".join(words for item in value[:MAX_ITEMS] if (words := _words(item, depth + 1, own=own)))
    if not isinstance(value, dict):
        return ""
    if own and isinstance(value.get("fieldViolations"), list):
        value = {"message": value["fieldViolations"]}
    words = next((words for name in MESSAGES if (words := _words(value.get(name), depth + 1))), "")
    place = value.get("loc") or value.get("field")
    if words and isinstance(place, list):
        place = ".".join(str(part) for part in place[:MAX_ITEMS])
    return f"{place}: {words}" if words and place and isinstance(place, str) else words


def _text(value: object) -> str:
    """Return a name as a text: codes are texts or numbers."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < SAFE_INTEGER:
        return str(value)
    return str(safe(value)) if isinstance(value, str) else ""


def _first(source: dict[str, Any], places: dict[str, str]) -> str:
    """Return the first code or type of an object. A type is a text: a number there is a status."""
    values = (source.get(name) for name in places)
    return next(
        (name for value in values if (name := _text(value)) and (places is CODES or isinstance(value, str))), ""
    )


def _names(source: dict[str, Any]) -> Iterator[str]:
    """Yield every code, type and reason of an error, also of those within it."""
    yield from (_text(source.get(name)) for name in (*CODES, *TYPES, "reason"))
    for name in ("metadata", "innererror", "inner_error"):
        if isinstance(inner := source.get(name), dict):
            yield from (_text(inner.get(key)) for key in ("code", "error_type"))
            if inner.get("flagged_input") or inner.get("reasons"):
                yield "content_filter"  # OpenRouter's moderation has no code of its own
    details = source.get("details")
    for item in details[:MAX_ITEMS] if isinstance(details, list) else ():
        if isinstance(item, dict):
            yield _text(item.get("reason"))
            violations = item.get("violations")  # of Google's `QuotaFailure`
            for violation in violations[:MAX_ITEMS] if isinstance(violations, list) else ():
                if isinstance(violation, dict) and "PerDay" in _text(violation.get("quotaId")):
                    yield "quota_per_day"
