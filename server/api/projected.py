"""Delivery of a stream in the form that it was not created in."""

from aiohttp import web

from server.api.delivery import READ_BYTES, Delivery
from server.config import Flow
from server.core.records import Form
from server.core.views import Projection
from server.stream import Stream
from server.telemetry.metrics import Metrics


class ProjectedDelivery(Delivery):
    """A reader that translates for itself, in its own task: it reads every record from the first, and is never live."""

    def __init__(
        self, request: web.Request, stream: Stream, projection: Projection, flow: Flow, metrics: Metrics
    ) -> None:
        super().__init__(request, stream, 0, flow, metrics)
        self._projection = projection

    @property
    def form(self) -> Form:
        """The form that the stream was not created in."""
        return "native" if self._stream.birth.form == "openai" else "openai"

    async def _follow(self) -> None:
        """Write what the records make in the other form, until that of the ending has been written."""
        stream = self._stream
        while True:
            if self._request.protocol.writing_paused:
                await self._drain()
            stream.progressed()
            records = await stream.log.read(self.cursor, READ_BYTES)
            if records:
                self.cursor += len(records)
                self.offset += sum(len(data) for _, data in records)
                if shown := self._projection.frames(records):
                    self._write(shown)
            elif stream.log.lost and self._skip_lost():
                self._projection.skip_to(self.cursor)
            elif stream.ended.is_set():
                return
            else:
                self.wake.clear()
                if stream.log.tail == self.cursor and not stream.ended.is_set():  # or it came while the log was read
                    await self.wake.wait()
