"""Asks the targets of a model until one answers: the circuits, the strategy and the errors are those of chat.

Everything here is before the head of the answer. After it nothing can be taken back, and nobody else is asked.
"""

import asyncio
import dataclasses
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import structlog

from server.aio.deadline import Deadline
from server.api.plain.outgoing import Outgoing
from server.config.settings import Recovery
from server.core.errors import TRAITS, Kind, UpstreamError
from server.core.ports import Delivered, Failure, GiveUp, Restart, Retry, Strategy
from server.core.recovery.present import present
from server.core.timing import Phases
from server.relay.plan import NonsenseError
from server.relay.tries import Tries
from server.telemetry.logs import cause
from server.telemetry.metrics import Metrics
from server.upstreams.breaker import Fault, Permit
from server.upstreams.pool import Target

log = structlog.get_logger("sluiceway")


@dataclass(frozen=True, slots=True)
class Asking:
    """Whose request it is, and where it goes. `ends` is when its time is over (time.monotonic()).

    A circuit knows it by `id`: a client may have many requests with one `request_id`, which it has chosen.
    """

    id: str
    request_id: str
    owner: str
    path: str  # below the upstream's `base_url`
    headers: Mapping[str, str]
    ends: float

    @property
    def time_left(self) -> float:
        """Seconds until then."""
        return self.ends - time.monotonic()


@dataclass(slots=True)
class _Sending:
    """Until when a target may take its time. It must take a body as it comes; for the answer it has all of the time."""

    outgoing: Outgoing
    patience: float
    ends: float

    @property
    def last(self) -> float:
        until = self.ends - self.patience
        return until if self.outgoing.whole else min(self.outgoing.last, until)


class Attempt:
    """One request to one target. `response` is there when its head has come. `settle` or `failed` must follow."""

    def __init__(self, asking: Asking, outgoing: Outgoing, target: Target, permit: Permit, metrics: Metrics) -> None:
        self.target = target
        self.phases = Phases(time.monotonic())
        self.response: aiohttp.ClientResponse
        self._asking = asking
        self._outgoing = outgoing
        self._permit = permit
        self._metrics = metrics
        self._opened = False
        self._settled = False

    @property
    def silence(self) -> float:
        """Seconds in which the target must take more of a body, or send more of an answer. Nobody else can go on."""
        return max(self.target.idle_timeout, self.target.last_resort_timeout)

    async def head(self, *, patience: float | None) -> None:
        """Send the request; return when the head of its answer is here, which is no error. Raises UpstreamError.

        `patience`: seconds until the head; None: until the time of the request is over.
        """
        asking, outgoing = self._asking, self._outgoing
        sent = outgoing.body(self.target.model)
        headers = {**asking.headers, "content-type": outgoing.content_type}
        if sent.size is not None:
            headers["content-length"] = str(sent.size)
        try:
            with Deadline() as deadline:
                if patience is not None:
                    deadline.set(min(asking.ends, time.monotonic() + patience))
                else:
                    deadline.follow(_Sending(outgoing, self.silence, asking.ends), self.silence)
                response = await self.target.client.relay(asking.path, sent.data, self.phases, headers)
        except TimeoutError:
            raise UpstreamError(Kind.TTFT_TIMEOUT, "The upstream did not answer in time.") from None
        self.response, self._opened = response, True
        self.phases.headers = time.monotonic()
        self._permit.answered(asking.owner)

    def failed(self, error: UpstreamError) -> None:
        """Note a failure of the target, and complete the error for the client."""
        target = self.target
        self._metrics.errors.labels(target.label, error.kind.value).inc()
        present(error, target.client.unquoted)
        request_id = error.request_id or self.phases.request_id
        error.request_id = target.client.unquoted(request_id) if request_id else None
        error.upstream = target.settings.name, target.name
        if error.trait.breaks or error.kind is Kind.EXHAUSTED:
            log.warning(
                "attempt failed",
                request_id=self._asking.request_id,
                target=target.name,
                kind=error.kind.value,
                status=error.status,
                reason=error.reason,
                upstream_request_id=error.request_id,
            )
        self.settle(ok=False if error.trait.breaks else None, kind=error.kind)

    def settle(self, *, ok: bool | None, kind: Kind | None = None) -> None:
        """Let the connection go, and report the outcome. Only the first call counts.

        True: the whole answer has come. None: it is not wanted any more, or its request was wrong.
        """
        if self._settled:
            return
        self._settled = True
        if self._opened:
            if ok:
                self.response.release()
            else:
                self.response.close()
        fault = None
        if kind is not None:
            body = self._outgoing.mark if TRAITS[kind].suspect else None
            fault = Fault(kind.value, self._asking.id, self._asking.owner, body, early=not self._opened)
        self._permit.settle(ok, fault)
        self._metrics.observe_plain_phases(self.target.label, self.phases)


class Attempts:
    """The attempts of one request."""

    def __init__(
        self,
        asking: Asking,
        outgoing: Outgoing,
        route: Sequence[Target],
        strategy: Strategy,
        recovery: Recovery,
        metrics: Metrics,
    ) -> None:
        self.count = 0  # requests that were made
        self.target = ""  # the name of the one that was asked last
        self._asking = asking
        self._outgoing = outgoing
        self._tries = Tries(route)
        self._strategy = strategy
        self._settings = recovery
        self._metrics = metrics

    async def answer(self) -> Attempt:
        """Return the attempt that has an answer, with its head.

        Raises:
            UpstreamError: the first cause, because nothing is left to try.
            Rejected: the client's body is wrong, or did not come.

        """
        number = self._tries.first()
        while True:
            try:
                return await self._ask(number)
            except UpstreamError as error:
                # A copy, which knows no frames. See `Turn.run`.
                failure = dataclasses.replace(error)
            number, wait = self._next(number, failure)
            await asyncio.sleep(wait)

    async def _ask(self, number: int) -> Attempt:
        target = self._tries[number]
        permit = self._tries.begin(number)
        self.count += 1
        self.target = target.name
        attempt = Attempt(self._asking, self._outgoing, target, permit, self._metrics)
        try:
            await attempt.head(patience=self._patience(number))
        except UpstreamError as error:
            if self._outgoing.fault is not None:
                attempt.settle(ok=None)
                raise dataclasses.replace(self._outgoing.fault) from None
            attempt.failed(error)
            self._tries.fail(number, error)
            raise
        except BaseException:
            attempt.settle(ok=None)
            raise
        return attempt

    def _patience(self, number: int) -> float | None:
        """Return the seconds until the head of an answer. One that is not streamed may take all of the time."""
        if not self._outgoing.stream:
            return None
        target = self._tries[number]
        alone = self._settings.strategy == "none" or self._tries.is_last(number, self._settings.max_retries)
        return max(target.ttft_timeout, target.last_resort_timeout) if alone else target.ttft_timeout

    def _next(self, failed: int, error: UpstreamError) -> tuple[int, float]:
        """Return which target is asked next, and the seconds until then. Raises UpstreamError, the first cause."""
        if not self._outgoing.repeatable:
            words = f"{error.message} (What was sent of the upload is no longer at hand, so nobody else was asked.)"
            raise dataclasses.replace(error, message=words)
        try:
            step = self._decision(failed, error)
        except Exception as fault:  # noqa: BLE001 — third-party code may raise anything
            log.error("strategy failed", strategy=self._settings.strategy, **cause(fault))
            step = None
        if step is None:
            raise self._tries.final_error(failed, error)
        return step

    def _decision(self, failed: int, error: UpstreamError) -> tuple[int, float] | None:
        """Return what the strategy decides; None: it gives up. Raises NonsenseError, and what a strategy raises."""
        settings, time_left = self._settings, self._asking.time_left
        decision = self._strategy.decide(
            Failure(
                kind=error.kind,
                same=error.trait.same,
                other=error.trait.other,
                retry_after=error.retry_after,
                target=failed,
                targets=self._tries.views(),
                delivered=Delivered(),
                recoveries=0,
                diverged=False,
                time_left=time_left,
                client_present=True,
                max_retries=settings.max_retries,
                max_recoveries=settings.max_recoveries,
                backoff=settings.backoff,
                jitter=random.random(),  # noqa: S311 — it spreads retries and protects no secret
            )
        )
        if isinstance(decision, GiveUp):
            return None
        if not isinstance(decision, Retry | Restart):
            raise NonsenseError(f"{decision!r} is no decision before an answer")
        number = failed if isinstance(decision, Retry) else decision.target
        if not 0 <= number < len(self._tries) or self._tries.attempts(number) > settings.max_retries:
            raise NonsenseError(f"target {number} cannot be asked")
        if not (math.isfinite(decision.wait) and 0 <= decision.wait <= time_left):
            raise NonsenseError(f"the request cannot wait for {decision.wait!r} seconds")
        return number, decision.wait
