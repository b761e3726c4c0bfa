"""The relay: pumps targets into one log, and brings the stream to its one ending.

One routine drives the first attempt and every later one. A strategy decides after each failure; the relay acts.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.attempt import Attempt, WholeAttempt
from server.config import Recovery
from server.core import continuation, delivered
from server.core.billing import Bill
from server.core.errors import Kind, StoreError, StreamError, UpstreamError
from server.core.forms import Writer
from server.core.generation import Generation
from server.core.intake import Intake, Seam
from server.core.lifecycle import State, state_of
from server.core.ports import Continue, Delivered, Failure, GiveUp, Restart, Retry, Strategy, TargetView
from server.core.records import Ending
from server.core.seam import Suppression, Texts, Trim
from server.core.transcript import Transcript
from server.stream import Stream
from server.telemetry.metrics import Metrics
from server.upstreams.pool import Target

READ_ALL = 1 << 40  # bytes; a log is bounded by max_stream_bytes


@dataclass(slots=True)
class Plan:
    """The next attempt: which target, what to change in the request, how to join its text."""

    target: int
    wait: float = 0.0
    seam: Seam | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    recovery: str | None = None  # the strategy's name where something was delivered before


class Relay:
    """One generation, from its first attempt to its ending. `run` is the task."""

    def __init__(
        self,
        stream: Stream,
        generation: Generation,
        route: Sequence[Target],
        *,
        writer: Writer,
        strategy: Strategy,
        recovery: Recovery,
        total_timeout: float,
        metrics: Metrics,
    ) -> None:
        self._task: asyncio.Task[None] | None = None
        self._stop: StreamError | None = None  # why somebody stopped this stream; None: the process goes down
        self._stream = stream
        self._generation = generation
        self._route = route
        self._writer = writer
        self._strategy = strategy
        self._recovery = recovery
        self._total_timeout = total_timeout
        self._metrics = metrics
        self._transcript = Transcript(generation.choices)
        self._bill = Bill(generation.body)
        self._attempts = [0] * len(route)
        self._first_cause: UpstreamError | None = None
        self._diverged = False
        self._ttft: float | None = None
        self._accepted = time.monotonic()

    # --- the life of the stream --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Relay until the one ending is in the log, whatever happens."""
        self._task = asyncio.current_task()
        try:
            if self._stop is not None:
                raise self._stop
            async with asyncio.timeout_at(self._accepted + self._total_timeout):
                await self._generate()
        except TimeoutError:
            words = f"The stream took longer than {self._total_timeout:g} seconds."
            await self._fail(StreamError(words, "total_timeout", 504, retryable=True))
        except asyncio.CancelledError:
            if self._stop is None or self._stream.ended.is_set():
                raise
            await self._fail(self._stop)
        except (UpstreamError, StreamError) as error:
            await self._fail(error)
        except StoreError:
            raise  # an ending cannot be written either: whoever owns the stream tells its readers
        except Exception:
            await self._fail(StreamError("The gateway failed on this stream.", "internal_error", 500))
            raise

    def stop(self, error: StreamError) -> None:
        """End the stream with `error`: the upstream's socket is closed in the task's next turn. Once only."""
        if self._stop is None:
            self._stop = error
            # A task that is cancelled before its first turn never runs, and would leave the log without an ending.
            if self._task is not None:
                self._task.cancel()

    async def _generate(self) -> None:
        plan = self._first_plan()
        while True:
            if plan.wait:
                await asyncio.sleep(plan.wait)
            try:
                await self._attempt(plan)
            except UpstreamError as error:
                plan = await self._next_plan(plan, error)
            else:
                return

    async def _attempt(self, plan: Plan) -> None:
        """Make one request and relay it to its end. Raises UpstreamError where it fails."""
        target, generation = self._route[plan.target], self._generation
        permit = target.breaker.acquire()
        if permit is None:
            raise UpstreamError(Kind.CONNECT, "The target's circuit is open.")
        self._attempts[plan.target] += 1
        self._stream.target = target.name
        self._bill.begin(self._transcript, continued=isinstance(plan.seam, Trim))
        attempt = (Attempt if generation.stream else WholeAttempt)(
            target,
            generation.upstream_body(target.model, ask_usage=target.settings.usage, changes=plan.changes),
            dict(generation.trace),
            Intake(self._transcript, show_usage=generation.show_usage, seam=plan.seam),
            self._transcript,
            self._stream,
            self._writer,
            self._metrics,
            self._spoke,
            self._complete,
        )
        ok: bool | None = None
        try:
            await attempt.run()
            ok = True
        except UpstreamError as error:
            ok = False if error.trait.breaks else None
            self._metrics.errors.labels(target.label, error.kind.value).inc()
            raise
        finally:
            permit.settle(ok)
            self._bill.settle(
                self._transcript, spoke=attempt.intake.spoke, restarted=isinstance(plan.seam, Suppression)
            )
            self._metrics.observe_phases(target.label, attempt.phases)
            if plan.recovery is not None:
                self._metrics.recoveries.labels(plan.recovery, "recovered" if ok else "failed").inc()

    async def _spoke(self, attempt: Attempt) -> None:
        """Note an attempt's first token."""
        self._stream.move(State.STREAMING)
        if self._ttft is None:
            self._ttft = time.monotonic() - self._accepted
            self._metrics.ttft.labels(attempt.target.label).observe(self._ttft)

    # --- recovery ----------------------------------------------------------------------------------------------

    def _first_plan(self) -> Plan:
        for index, target in enumerate(self._route):
            if target.breaker.available:
                return Plan(index)
        soonest = min(target.breaker.opens_in for target in self._route)
        raise UpstreamError(
            Kind.CONNECT, "No target is available: all circuits are open.", status=503, code="no_target",
            retry_after=max(1.0, soonest),
        )  # fmt: skip

    async def _next_plan(self, plan: Plan, error: UpstreamError) -> Plan:
        """Ask the strategy; raise the first cause where it gives up."""
        self._first_cause = self._first_cause or error
        self._diverged = self._diverged or error.kind is Kind.DIVERGED
        texts = await self._texts() if self._transcript.begun else {}
        failure = self._describe(plan.target, error, texts)
        match self._strategy.decide(failure):
            case Retry(wait=wait):
                following = Plan(plan.target, wait)
            case Restart(target=target, wait=wait):
                following = Plan(target, wait, Suppression(texts, self._transcript.finish) if texts else None)
            case Continue(target=target, wait=wait):
                form = self._route[target].settings.continuation
                text, tokens = texts.get((0, "content"), ""), self._transcript.tokens
                changes, seam = continuation.changes(form, self._generation.body, text, tokens)
                following = Plan(target, wait, seam, changes)
            case GiveUp():
                raise self._first_cause from error
        if texts:
            await self._recovering(following, error)
        elif self._stream.state is State.STARTING:
            self._stream.target = self._route[following.target].name
        return following

    async def _recovering(self, plan: Plan, error: UpstreamError) -> None:
        """Note that a later attempt is going to join what was delivered."""
        self._stream.move(State.RECOVERING)
        self._stream.recoveries += 1
        plan.recovery = "restart" if isinstance(plan.seam, Suppression) else "continue"
        event = {
            "attempt": self._stream.recoveries,
            "strategy": plan.recovery,
            "target": self._route[plan.target].name,
            "reason": error.kind.value,
            "exact": plan.recovery == "restart" or self._route[plan.target].settings.continuation != "user_turn",
        }
        await self._stream.append(self._writer.recovery(event))

    async def _texts(self) -> Texts:
        log = self._stream.log
        return delivered.texts(log.birth.form, await log.read(0, READ_ALL))

    def _describe(self, index: int, error: UpstreamError, texts: Texts) -> Failure:
        transcript, generation = self._transcript, self._generation
        views = tuple(
            TargetView(target.name, made, target.settings.continuation, target.breaker.available)
            for target, made in zip(self._route, self._attempts, strict=True)
        )
        return Failure(
            kind=error.kind,
            same=error.trait.same,
            other=error.trait.other,
            retry_after=error.retry_after,
            target=index,
            targets=views,
            delivered=Delivered(
                tokens=transcript.tokens,
                characters=sum(len(text) for text in texts.values()),
                reasoning=transcript.reasoning,
                calls=transcript.calls,
                structured=generation.structured,
                choices=generation.choices,
                tools=bool(generation.body.get("tools")),
            ),
            recoveries=self._stream.recoveries,
            diverged=self._diverged,
            time_left=self._accepted + self._total_timeout - time.monotonic(),
            client_present=True,  # a stream that nobody waits for is cancelled, and this task with it
            max_retries=self._recovery.max_retries,
            max_recoveries=self._recovery.max_recoveries,
            backoff=self._recovery.backoff,
            jitter=random.random(),  # noqa: S311 — spreads retries, keeps no secret
        )

    # --- the ending --------------------------------------------------------------------------------------------

    async def _complete(self) -> None:
        """End with what the upstream finished for."""
        reasons = frozenset(self._transcript.finish.values())
        await self._end(state_of(reasons), ",".join(sorted(reasons)))

    async def _fail(self, error: UpstreamError | StreamError) -> None:
        """End with an error: failed, or cancelled where that is what happened."""
        if isinstance(error, StreamError):
            state = State.CANCELLED if error.code == "cancelled" else State.FAILED
            status, code, retryable, retry_after = error.status, error.code, error.retryable, None
        else:
            state, status, code = State.FAILED, error.http_status, error.code or error.kind.value
            retryable, retry_after = error.trait.same, error.retry_after
        body = error.body()
        body["error"]["retryable"] = retryable
        await self._end(state, code, error=body, status=status, retry_after=retry_after)

    async def _end(self, state: State, reason: str, **failure: Any) -> None:
        transcript = self._transcript
        ending = Ending(
            state=state,
            reason=reason,
            at=time.time(),
            target=self._stream.target,
            tokens=transcript.tokens,
            recoveries=self._stream.recoveries,
            ttft_ms=None if self._ttft is None else round(self._ttft * 1000, 3),
            usage=self._bill.shown(transcript),
            billed=self._bill.total(transcript),
            **failure,
        )
        await self._stream.finish(self._writer.ending(ending, transcript), ending)
