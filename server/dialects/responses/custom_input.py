"""The input of a custom tool, read out of the arguments of the function that stands for it, piece by piece."""

import json
import re

from server.core.wide_json import loads_text, paired

START = re.compile(r'\s*\{\s*"input"\s*:\s*"')
MAX_START = 64  # characters; arguments that begin otherwise are read when they are whole
# To the quote that ends it, or to an escape at its end of which more may come.
TEXT = re.compile(r'(?:[^"\\]+|\\(?!u[0-9a-fA-F]{0,3}\Z).)*', re.DOTALL)
ODD = re.compile(r'\\(?!["/bfnrt]|u[0-9a-fA-F]{4})')  # an escape that JSON does not know: the model meant the character


class CustomInput:
    """Decodes `{"input": "…"}`. What it has returned is never taken back, so all of it together is the input."""

    def __init__(self) -> None:
        self._begun = False
        self._closed = False
        self._rest = ""  # arguments that are not decoded yet

    def feed(self, arguments: str) -> str:
        """Return the part of the input that a piece of the arguments completes."""
        if self._closed:
            return ""
        self._rest += arguments
        if not self._begun:
            if len(self._rest) > MAX_START and not START.match(self._rest):
                return ""
            start = START.match(self._rest)
            if start is None:
                return ""
            self._begun, self._rest = True, self._rest[start.end() :]
        return self._decoded()

    def _decoded(self) -> str:
        match = TEXT.match(self._rest)
        assert match is not None
        rest = self._rest[match.end() :]
        self._closed = rest.startswith('"')
        self._rest = "" if self._closed else rest
        pairs = match[0].split(r"\\")  # a backslash behind an escaped one begins an escape
        text = r"\\".join(ODD.sub(r"\\\\", part) for part in pairs)
        return str(json.loads(f'"{text}"', strict=False))

    def finish(self) -> str:
        """Return what is left of the input when no more arguments come."""
        if self._begun:
            return ""
        try:
            value = loads_text(paired(self._rest))
        except ValueError:
            value = None
        text = value.get("input", None if value else "") if isinstance(value, dict) else value
        return text if isinstance(text, str) else self._rest
