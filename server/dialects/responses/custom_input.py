"""The input of a custom tool, read out of the arguments of the function that stands for it, piece by piece."""

import json
import re

from server.core.wide_json import loads, paired

START = re.compile(r'\s*\{\s*"input"\s*:\s*"')
MAX_START = 64  # characters; arguments that begin otherwise are read when they are whole
ESCAPE = r'\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})'
TEXT = re.compile(rf'(?:[^"\\]|{ESCAPE})*')
UNFINISHED = re.compile(r"\\(?:u[0-9a-fA-F]{0,3})?")  # an escape of which more may come


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
        texts = []
        while True:
            match = TEXT.match(self._rest)
            assert match is not None
            texts.append(json.loads(f'"{match[0]}"', strict=False))
            self._rest = self._rest[match.end() :]
            if self._rest.startswith('"'):
                self._closed, self._rest = True, ""
            if not self._rest or UNFINISHED.fullmatch(self._rest):
                return "".join(texts)
            texts.append("\\")  # an escape that JSON does not know: the model meant the character
            self._rest = self._rest[1:]

    def finish(self) -> str:
        """Return what is left of the input when no more arguments come."""
        if self._begun:
            return ""
        try:
            value = loads(paired(self._rest).encode("utf-8", "surrogatepass"))
        except ValueError:
            value = None
        text = value.get("input", None if value else "") if isinstance(value, dict) else value
        return text if isinstance(text, str) else self._rest
