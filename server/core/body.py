"""The JSON object of a request, kept as bytes: as Python objects it takes up to twenty times as much memory."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Self

import orjson


class Body(Mapping[str, Any]):
    """The fields of a request. A field is parsed when it is asked for, and what was parsed is not kept.

    `data` is the whole object, compact, with its fields in the client's order. The order matters: a model fills in a
    structured answer in the order of its schema.
    """

    __slots__ = ("_fields", "data")

    data: bytes
    _fields: dict[str, slice] | None

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """Write the fields. Raises orjson.JSONEncodeError if they cannot be written."""
        self.data, self._fields = _written(fields)

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Return the body that `data` holds: bytes that a `Body` has written."""
        body = cls.__new__(cls)
        body.data = data
        body._fields = None
        return body

    def _places(self) -> dict[str, slice]:
        """Return where the value of each field is in `data`."""
        if self._fields is None:
            written, fields = _written(orjson.loads(self.data))
            if written != self.data:  # by an older version
                self.data = written
            self._fields = fields
        return self._fields

    def __getitem__(self, name: str) -> Any:
        place = self._places()[name]
        return orjson.loads(memoryview(self.data)[place])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places())

    def __len__(self) -> int:
        return len(self._places())

    def __contains__(self, name: object) -> bool:
        return name in self._places()

    def changed(self, changes: Mapping[str, Any], without: Collection[str] = ()) -> bytes:
        """Return the object with other values for some fields, and `without` others. Nothing else is parsed."""
        data = memoryview(self.data)
        parts: list[bytes | memoryview] = []
        for name, place in self._places().items():
            if name not in changes and name not in without:
                parts += (b",", orjson.dumps(name), b":", data[place])
        for name, value in changes.items():
            parts += (b",", orjson.dumps(name), b":", orjson.dumps(value))
        return b"".join((b"{", *parts[1:], b"}"))


def _written(fields: Mapping[str, Any]) -> tuple[bytes, dict[str, slice]]:
    """Return the JSON of an object, and where in it the value of each field is."""
    parts: list[bytes] = []
    places: dict[str, slice] = {}
    at = 1
    for name, value in fields.items():
        head, text = orjson.dumps(name) + b":", orjson.dumps(value)
        places[name] = slice(at + len(head), at + len(head) + len(text))
        at += len(head) + len(text) + 1
        parts += (head, text, b",")
    return b"".join((b"{", *parts[:-1], b"}")), places
