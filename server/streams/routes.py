"""Where the requests for a model go."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from server.config.settings import Settings
from server.core.errors import Rejected
from server.upstreams.pool import Target, Upstreams


def unknown_model(name: str) -> Rejected:
    """Return the rejection of a request for a model that does not exist."""
    return Rejected(404, f"The model `{name}` does not exist.", "model_not_found", "model")


class Routes:
    """The targets of each model by the configuration in force: a reload replaces `settings`."""

    def __init__(self, settings: Settings, upstreams: Upstreams) -> None:
        self.settings = settings
        self.upstreams = upstreams

    def of(self, name: str) -> Sequence[Target]:
        """Return the targets of a model, in the order in which they are asked. Empty if there is no such model."""
        model = self.settings.resolve(name)
        return self.upstreams.route(model, name) if model is not None else ()

    def has(self, name: str) -> bool:
        """Whether there is such a model."""
        return self.settings.resolve(name) is not None

    @contextmanager
    def held(self, route: Sequence[Target]) -> Iterator[None]:
        """Keep the connections of a route open while the block runs, even if a reload replaces its upstreams."""
        self.upstreams.hold(route)
        try:
            yield
        finally:
            self.upstreams.release(route)
