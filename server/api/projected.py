"""Delivery of a stream in another dialect than the one that created it."""

from collections.abc import Sequence

from aiohttp import web

from server.api.delivery import Delivery
from server.config.settings import Flow
from server.core.dialect import Dialect
from server.core.projection import Projection
from server.core.records import Record
from server.relay.stream import Stream
from server.telemetry.metrics import Metrics


class ProjectedDelivery(Delivery):
    """A reader that translates in its own task. It reads every record from the first, and is never live."""

    pushed = False

    def __init__(
        self,
        request: web.Request,
        stream: Stream,
        dialect: Dialect,
        projection: Projection,
        flow: Flow,
        metrics: Metrics,
    ) -> None:
        super().__init__(request, stream, 0, flow, metrics)
        self._dialect = dialect
        self._projection = projection

    @property
    def dialect(self) -> Dialect:
        """The dialect in which this client gets the stream."""
        return self._dialect

    def _show(self, records: Sequence[Record]) -> None:
        """Write the frames of records in the other dialect, if there are any."""
        self._passed(records)
        if frames := self._projection.frames(records):
            self._write(frames)

    def _skip_lost(self) -> bool:
        """Skip lost records, in the projection as well."""
        skipped = super()._skip_lost()
        if skipped:
            self._projection.skip_to(self.cursor)
        return skipped
