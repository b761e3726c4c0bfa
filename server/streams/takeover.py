"""Going on with a stream whose relay is gone, on this instance or on another one."""

from collections.abc import Callable

import structlog

from server.config.settings import Model
from server.core.errors import StreamError
from server.relay.stream import Stream
from server.streams.linger import Linger
from server.streams.live import Live, LiveStreams
from server.upstreams.pool import Upstreams

log = structlog.get_logger("sluiceway")


class Takeover:
    """Begins relays for logs that were claimed. `resolve` finds a configured model."""

    def __init__(
        self, upstreams: Upstreams, live: LiveStreams, linger: Linger, resolve: Callable[[str], Model | None]
    ) -> None:
        self._upstreams = upstreams
        self._live = live
        self._linger = linger
        self._resolve = resolve

    def begin(self, stream: Stream, stop: StreamError | None = None) -> Live:
        """Begin a relay for a stream whose log is held here now; with `stop` only to end it."""
        generation = stream.dialect.generation(stream.beginning)
        model = self._resolve(generation.model)
        if model is None:
            stop = stop or StreamError(f"The model `{generation.model}` does not exist.", "model_not_found", 404)
        route = self._upstreams.route(model, generation.model) if model else ()
        live = self._live.begin(stream, generation, route, taken_over=True)
        log.info("stream taken over", stream_id=stream.id, records=stream.log.tail, age=round(stream.age, 3))
        if stop is not None:
            live.relay.stop(stop)
        elif not stream.readers:
            self._linger.begin(live)
        return live
