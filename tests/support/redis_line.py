"""A proxy before a Redis server that loses an answer or holds it back.

So the server has done what a gateway asked for, and the gateway does not know.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Line:
    """The proxy. `url` leads through it to the server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._word = b""
        self._then_cut = self._keeps = self._is_cut = False
        self._mended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = asyncio.Event()  # set when the answer is lost, or held back

    def lose(self, word: str, *, dead: bool = True) -> None:
        """Pass on the next request with this word in it, and drop its answer. If `dead`, cut all connections then."""
        self._word, self._then_cut, self._keeps = word.encode(), dead, False
        self.lost.clear()

    def keep(self, word: str) -> None:
        """Pass on the next request with this word in it, and hold its answer back until `mend`."""
        self.lose(word, dead=False)
        self._keeps = True
        self._mended.clear()

    def mend(self) -> None:
        """Take connections again, and pass on the answer that is held back."""
        self._is_cut = False
        self._mended.set()

    def cut(self) -> None:
        """Close all connections, and take none until `mend`."""
        self._is_cut = True
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def open(self) -> None:
        """Listen on a port of the kernel's choice."""
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/0"

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._is_cut:
                await self._pass(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await asyncio.open_connection("127.0.0.1", self._port)
        answering = asyncio.create_task(self._answer(answers, writer))
        try:
            while asked := await reader.read(1 << 20):
                if self._word and self._word in asked:
                    self._word = b""
                    answering.cancel()
                    await asyncio.wait([answering])
                    server.write(asked)
                    answer = await answers.read(1 << 20)
                    self.lost.set()
                    if not self._keeps:
                        if self._then_cut:
                            self.cut()
                        return
                    await self._mended.wait()
                    writer.write(answer)
                    answering = asyncio.create_task(self._answer(answers, writer))
                else:
                    server.write(asked)
        finally:
            answering.cancel()
            server.close()

    async def _answer(self, answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while answer := await answers.read(1 << 20):
            writer.write(answer)


@asynccontextmanager
async def line_to(port: int) -> AsyncIterator[Line]:
    """Run a proxy to the server on a port until the end of the block."""
    line = Line(port)
    await line.open()
    try:
        yield line
    finally:
        await line.close()
