"""What is wrong with a configuration, in lines that can be printed: no secret, no control character, not too long."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

Location = tuple[int | str, ...]  # of a key: its section, the index in an array of tables, its name

BAD_CONFIG = 2  # exit status of a command whose configuration cannot be used
# What a secret in the wrong place looks like: a known prefix, or a long run of letters and digits.
SECRET = re.compile(r"(?i)(\b|_)(sk|pk|rk|gsk|hf|xai|ghp|bearer)[-_ ]\S{8}|(?=[a-z]*\d)[a-z0-9]{24}")
# People who misread the meaning of these keys write secrets into them. So their values are never shown.
HIDDEN = {"sha256", "headers", "header_env", "command", "env", "env_from", "query", "auth"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend: the key, its value as it may be shown (None: it has none), and what would be right."""

    key: str
    value: str | None
    wanted: str
    warning: bool = False

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value} — "
        return f"{'warning: ' if self.warning else ''}{self.key}: {value}{self.wanted}"


class ConfigError(ValueError):
    """The configuration cannot be used. ``problems`` has every reason; the text has one line for each."""

    def __init__(self, problems: Collection[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def problem_at(location: Location, value: object, wanted: str, *, warning: bool = False) -> Problem:
    """Return the problem that the key at ``location`` has this value instead of what is ``wanted``."""
    return Problem(key_text(location), _value_text(location, value), wanted, warning)


def key_text(location: Location) -> str:
    """Write a location as ``section[0].key``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{quoted(part, bare='[A-Za-z0-9_-]+')}" for part in location)
    return "".join(parts).removeprefix(".")


def list_text(names: Collection[str]) -> str:
    """Write names as a list with commas."""
    return ", ".join(quoted(name, bare="[ -~]+") for name in names)


def quoted(text: str, bare: str) -> str:
    """Return the text on one line, cut after 200 characters. If it is not printable or not all ``bare``, quote it."""
    text = text if len(text) <= 200 else text[:200] + "…"
    if text.isprintable() and re.fullmatch(bare, text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _value_text(location: Location, value: object) -> str:
    """Write a value on one line, without anything that may be a secret."""
    match value:
        case str():
            is_name = any(str(part).endswith("_env") for part in location)  # or a secret in the place of one
            secret_for_name = is_name and not re.fullmatch(r"[A-Z][A-Z0-9_]*", value)
            _, user, text = value.rpartition("@")  # a URL has its password before the host, and often a token after "?"
            text, query, _ = text.partition("?")
            if secret_for_name or HIDDEN & set(location) or SECRET.search(text[:500]):
                return f"(hidden, {len(value)} characters)"
            return quoted(f"{user and '…@'}{text}{query and '?…'}", bare="(?!)")
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 64:
            return "a very large number"
        case dict():
            return "a table"
        case list():
            return "an array"
        case _:
            return str(value)
