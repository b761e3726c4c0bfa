"""What the delta of a chat completion chunk says, in the words of Responses.

Sources: https://platform.openai.com/docs/api-reference/chat-streaming and …/responses-streaming.
"""

import re
from collections.abc import Iterator
from typing import Any

from server.dialects.responses import events

DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
FORMATS = {"/9j/": "jpeg", "UklGR": "webp", "R0lGOD": "gif"}  # by how their Base64 begins


def texts_of(content: object, kind: str = events.TEXT) -> Iterator[tuple[str, str]]:
    """Yield the texts of a delta's `content`, each with the kind of its part.

    Mistral sends a list of parts, which includes the thinking (again a list of parts).
    """
    if isinstance(content, str):
        if content:
            yield kind, content
        return
    for part in content if isinstance(content, list) else ():
        if not isinstance(part, dict):
            continue
        if (text := part.get("text")) and isinstance(text, str):
            yield kind, text
        elif (thinking := part.get("thinking")) and kind == events.TEXT:
            yield from texts_of(thinking, events.REASONING)


def annotations_of(delta: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the citations of a delta. Chat completions have an object within each, Responses have not."""
    listed = delta.get("annotations")
    for annotation in listed if isinstance(listed, list) else ():
        inner = annotation.get("url_citation", annotation) if isinstance(annotation, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("url"), str):
            continue
        yield {
            "type": "url_citation",
            "start_index": _whole(inner.get("start_index")),
            "end_index": _whole(inner.get("end_index")),
            "title": inner["title"] if isinstance(inner.get("title"), str) else "",
            "url": inner["url"],
        }


def images_of(delta: dict[str, Any]) -> Iterator[str]:
    """Yield the images of a delta in Base64. OpenRouter has a field for them. One at an address is passed over."""
    listed = delta.get("images")
    for image in listed if isinstance(listed, list) else ():
        url = image.get("image_url") if isinstance(image, dict) else None
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str) and (start := DATA_URL.match(url)):
            yield url[start.end() :]


def image_part(image: str) -> dict[str, Any]:
    """Return an image in Base64 as chat completions have it."""
    kind = next((name for start, name in FORMATS.items() if image.startswith(start)), "png")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{image}"}}


def logprobs_of(choice: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the probabilities of a choice's tokens, as the events of a text have them."""
    logprobs = choice.get("logprobs")
    listed = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [
        {**_probability(one), "top_logprobs": [_probability(top) for top in _objects(one.get("top_logprobs"))]}
        for one in _objects(listed)
    ]


def with_bytes(logprob: dict[str, Any]) -> dict[str, Any]:
    """Return a probability as the parts of an item have it: with the bytes of its token."""
    tops = [with_bytes({**top, "top_logprobs": None}) for top in logprob["top_logprobs"] or ()]
    told = {"token": logprob["token"], "logprob": logprob["logprob"]}
    told["bytes"] = list(logprob["token"].encode("utf-8", "replace"))
    return told if logprob["top_logprobs"] is None else {**told, "top_logprobs": tops}


def _probability(one: dict[str, Any]) -> dict[str, Any]:
    value = one.get("logprob")
    return {"token": str(one.get("token") or ""), "logprob": value if isinstance(value, int | float) else 0.0}


def _objects(listed: object) -> list[dict[str, Any]]:
    return [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
