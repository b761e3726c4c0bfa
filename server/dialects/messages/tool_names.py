"""Names of tools: Anthropic's may have 128 characters, those of a chat completion 64."""

import hashlib
from collections.abc import Iterable

MAX_NAME = 64  # https://platform.openai.com/docs/api-reference/chat/create
DIGEST = 8  # characters, so that two long names with the same start stay two names


def short_name(name: str) -> str:
    """Return a name that a chat upstream takes. It is the same each time, so no log has to remember it."""
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:DIGEST]
    return f"{name[: MAX_NAME - DIGEST - 1]}_{digest}"


def long_names(names: Iterable[object]) -> dict[str, str]:
    """Return the names that were shortened, by their short ones."""
    return {short_name(name): name for name in names if isinstance(name, str) and len(name) > MAX_NAME}
