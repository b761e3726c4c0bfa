"""A line to a Redis server that loses an answer, or keeps it: what was asked is done, and nobody knows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Line:
    """One listener before a server. `url` leads through it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._word = b""
        self._dies = self._keeps = self._dead = False
        self._mended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost = asyncio.Event()  # the answer has been, or is kept

    def lose(self, word: str, *, dead: bool = True) -> None:
        """Pass on the next request with this word in it, throw its answer away, and be `dead` from then on."""
        self._word, self._dies, self._keeps = word.encode(), dead, False
        self.lost.clear()

    def keep(self, word: str) -> None:
        """Pass on the next request with this word in it, and keep its answer until `mend`."""
        self.lose(word, dead=False)
        self._keeps = True
        self._mended.clear()

    def mend(self) -> None:
        """Be alive again."""
        self._dead = False
        self._mended.set()

    def cut(self) -> None:
        """Be dead."""
        self._dead = True
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()

    async def open(self) -> None:
        """Begin to listen."""
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}/0"

    async def close(self) -> None:
        """Cut all connections."""
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self._dead:
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
                        if self._dies:
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
    """Open a line to the server on a port until the end of the block."""
    line = Line(port)
    await line.open()
    try:
        yield line
    finally:
        await line.close()
