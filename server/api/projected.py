"""Delivery of a stream in the form that it was not created in."""

from collections.abc import Sequence

from aiohttp import web

from server.api.delivery import Delivery
from server.config.settings import Flow
from server.core.records import Form, Record
from server.core.views import Projection
from server.relay.stream import Stream
from server.telemetry.metrics import Metrics


class ProjectedDelivery(Delivery):
    """A reader that translates for itself, in its own task: it reads every record from the first, and is never live."""

    pushed = False

    def __init__(
        self, request: web.Request, stream: Stream, projection: Projection, flow: Flow, metrics: Metrics
    ) -> None:
        super().__init__(request, stream, 0, flow, metrics)
        self._projection = projection

    @property
    def form(self) -> Form:
        """The form that the stream was not created in."""
        return "native" if self._stream.beginning.form == "openai" else "openai"

    def _show(self, records: Sequence[Record]) -> None:
        """Write what records make in the other form, if anything."""
        self._passed(records)
        if shown := self._projection.frames(records):
            self._write(shown)

    def _skip_lost(self) -> bool:
        """Pass over lost records, in the projection as well."""
        skipped = super()._skip_lost()
        if skipped:
            self._projection.skip_to(self.cursor)
        return skipped
