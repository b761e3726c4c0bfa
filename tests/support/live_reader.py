"""A reader of a live stream without a connection."""

import re

from server.aio.event import Event


class LiveReader:
    """A reader that has seen everything, and keeps what it is given."""

    def __init__(self) -> None:
        self.cursor = self.offset = 0
        self.live = True
        self.wake = Event()
        self.given = b""

    def push(self, data: bytes, tail: int, offset: int) -> None:
        """Take frames."""
        self.given += data
        self.cursor, self.offset = tail, offset

    @property
    def ids(self) -> list[int]:
        """The numbers of all frames so far."""
        return [int(number) for number in re.findall(rb"^id: (\d+)$", self.given, re.MULTILINE)]
