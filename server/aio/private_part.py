"""A private part of a library that the gateway uses, and whether it is still what the gateway takes it for.

A library may change its private parts in any release. So each use is a `PrivatePart` with a check that runs at import.
If the check fails, the caller leaves the part alone and takes the plain way, which costs more but needs no such part.
"""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger("sluiceway")


class PrivatePart:
    """One private part. It is `usable` while `problem`, one sentence, is None.

    `check` returns if the part is as expected, and raises anything if not. `instead` names the plain way, for the log.
    """

    def __init__(self, name: str, check: Callable[[], None], *, instead: str) -> None:
        self.problem: str | None = None
        self.usable = True
        self.name = name
        self._check = check
        self._instead = instead
        self._warned = False
        self.look()
        _parts.append(self)

    def look(self) -> None:
        """Run the check."""
        try:
            self._check()
        except Exception as error:  # noqa: BLE001 — a part that has gone fails in any way; all of them mean the same
            self.problem = f"{type(error).__name__}: {error}"
        else:
            self.problem = None
        self.usable = self.problem is None

    def lost(self, problem: str) -> None:
        """Take the plain way from now on: its user has seen that the part is not as expected."""
        self.problem, self.usable = problem, False
        self.warn()

    def warn(self) -> None:
        """Log the problem, if there is one and it has not been logged yet."""
        if self.problem is not None and not self._warned:
            self._warned = True
            log.warning("private part changed", part=self.name, problem=self.problem, instead=self._instead)


_parts: list[PrivatePart] = []


def warn_of_changes() -> None:
    """Log one warning for each part that is not usable. Call it when logging is set up, which it is not at import."""
    for part in _parts:
        part.warn()


def expect(condition: object, otherwise: str) -> None:
    """Raise LookupError with the sentence `otherwise`, unless the condition holds."""
    if not condition:
        raise LookupError(otherwise)


def completed(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that has nothing to wait for. Raises RuntimeError if it waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a call that had nothing to wait for has suspended")
