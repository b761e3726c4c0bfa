"""One request to the model: asked of as many targets, as often as it takes, until the answer is whole.

One routine drives the first attempt and every later one. A strategy decides after each failure; the round acts.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from server.config.settings import Recovery
from server.core.billing import Bill
from server.core.dialect import Writer
from server.core.errors import Kind, UpstreamError
from server.core.generation import Generation
from server.core.lifecycle import State
from server.core.openai.intake import Intake
from server.core.openai.transcript import Transcript
from server.core.ports import Strategy
from server.core.recovery.seam import Suppression, Trim
from server.relay.attempt import Attempt, WholeAttempt
from server.relay.hedge import Hedge
from server.relay.plan import Plan, Planner
from server.relay.stream import Stream
from server.relay.tries import Tries
from server.telemetry.metrics import Metrics
from server.telemetry.traces import AttemptSpan, StreamSpan
from server.upstreams.pool import Target


class Turn:
    """The attempts of one request, and what they have said together. A stream has one, or one for each tool round.

    `first_token` is called when an attempt begins to speak, `complete` when the answer is whole; `time_left` returns
    the seconds that the stream has.
    """

    def __init__(
        self,
        stream: Stream,
        generation: Generation,
        targets: Sequence[Target],
        *,
        writer: Writer,
        strategy: Strategy,
        recovery: Recovery,
        bill: Bill,
        metrics: Metrics,
        time_left: Callable[[], float],
        received: float | None,
        span: StreamSpan | None,
        first_token: Callable[[Attempt], None],
        complete: Callable[[], Awaitable[None]],
    ) -> None:
        self.generation = generation
        self.tries = Tries(targets)
        self.transcript = Transcript(generation.choices)
        self._stream = stream
        self._writer = writer
        self._bill = bill
        self._metrics = metrics
        self._time_left = time_left
        self._span = span
        self._received = received  # when the client's request had come, until the first attempt is made for it
        self._first_token = first_token
        self._complete = complete
        self._hedge_after = recovery.hedge_after
        self._hedge: Hedge | None = None
        self._spoken = False  # the running attempt has sent a token
        self._planner = Planner(
            stream, generation, self.tries, strategy=strategy, settings=recovery, time_left=time_left
        )

    async def run(self, plan: Plan) -> int:
        """Carry out `plan`, and what follows from its failures; return which target answered.

        Raises:
            UpstreamError: the first cause, when nothing is left to try.

        """
        while True:
            if plan.wait:
                await asyncio.sleep(plan.wait)
            await self._stream.room()  # a stalled client that may never come back is not worth another attempt yet
            try:
                await self._attempt(plan)
            except UpstreamError as error:
                plan = await self.recover(plan, error)
            else:
                return plan.target

    async def recover(self, plan: Plan, error: UpstreamError) -> Plan:
        """Return the plan after a failure, announced to the client. Raises the first cause."""
        plan = await self._planner.after(plan, error, self.transcript)
        if plan.recovery:
            self._stream.recoveries += 1
        await self._announce(plan, error.kind.value)
        return plan

    async def take_over(self, target: int, error: UpstreamError) -> Plan:
        """Return how to go on from what a relay that is gone has delivered, announced. Raises UpstreamError."""
        plan = await self._planner.after(Plan(target), error, self.transcript, takeover=True)
        plan.takeover = True
        await self._announce(plan, "takeover")
        return plan

    async def _announce(self, plan: Plan, reason: str) -> None:
        """Show which target is asked next; note a later attempt that is going to join what was delivered."""
        stream, target = self._stream, self.tries[plan.target]
        if not plan.recovery:
            stream.target = target.name
            return
        stream.move(State.RECOVERING)
        exact = plan.recovery == "restart" or target.settings.continuation != "user_turn"
        announcement = {"strategy": plan.recovery, "target": target.name, "reason": reason, "exact": exact}
        await stream.append(self._writer.recovery(announcement))

    async def _attempt(self, plan: Plan) -> None:
        """Carry a plan out: one request, or two where it is hedged. Raises UpstreamError; `plan.target` failed."""
        self._spoken = False
        self._writer.begin_attempt()
        before = self.transcript.tokens
        self._bill.begin(self.transcript, continued=isinstance(plan.seam, Trim))
        outcome = "stopped"
        try:
            if self._hedge_after and self.generation.stream and not self.transcript.begun:
                await self._hedged(plan)
            else:
                # In a task of its own: a token resumes every coroutine of its task, down to the one that waits for it.
                await asyncio.create_task(self._ask(plan, plan.target, self.transcript), name="attempt")
            outcome = "recovered"
        except UpstreamError as error:
            joined = self.transcript.tokens > before  # and was lost again: a failure of its own
            outcome = "recovered" if joined else "diverged" if error.kind is Kind.DIVERGED else "failed"
            raise
        finally:
            restarted = isinstance(plan.seam, Suppression)
            self._bill.settle(self.transcript, spoke=self._spoken, restarted=restarted)
            if plan.recovery:
                counter = self._metrics.takeovers if plan.takeover else self._metrics.recoveries
                counter.labels(plan.recovery, outcome).inc()

    async def _hedged(self, plan: Plan) -> None:
        """Ask the next target too where the first token is late. Each has a transcript until one of them speaks."""
        choices = self.generation.choices
        self._hedge = Hedge(
            self._hedge_after,
            lambda target: self._ask(plan, target, Transcript(choices)),
            lambda: self.tries.spare(plan.target),
        )
        try:
            await self._hedge.run(plan.target)
        finally:
            plan.target = self._hedge.target
            self._hedge = None

    async def _ask(self, plan: Plan, index: int, transcript: Transcript) -> None:
        """Make one request and relay it to its end. Raises UpstreamError where it fails."""
        target, generation = self.tries[index], self.generation
        try:
            permit = self.tries.begin(index)
            self._stream.target = target.name
            span = self._span.attempt(target.name) if self._span is not None else None
            attempt = (Attempt if generation.stream else WholeAttempt)(
                target,
                generation.upstream_body(target.model, ask_usage=target.settings.usage, changes=plan.changes),
                dict(generation.trace) if span is None else span.headers,
                Intake(
                    transcript,
                    show_usage=generation.show_usage,
                    seam=plan.seam,
                    parsed=self._stream.dialect.reads_chunks,
                ),
                transcript,
                self._stream,
                self._writer,
                self._metrics,
                self._spoke,
                self._complete,
                permit,
            )
            attempt.phases.received, self._received = self._received, None
            self._stream.label = target.label
            await self._judged(attempt, span)
        except UpstreamError as error:
            error.message = target.client.unquoted(error.message)
            self.tries.fail(index, error)
            raise

    async def _judged(self, attempt: Attempt, span: AttemptSpan | None) -> None:
        """Run an attempt and tell the target's circuit, the metrics and the trace what became of it."""
        ok: bool | None = None
        failure: str | None = None
        try:
            await attempt.run()
            ok = True
        except UpstreamError as error:
            ok = False if error.trait.breaks else None
            failure = error.kind.value
            self._metrics.errors.labels(attempt.target.label, failure).inc()
            raise
        except asyncio.CancelledError:
            # A call that is not streamed has no other clock than the stream's: silence until then is the target's.
            waited = time.monotonic() - attempt.phases.started
            if self._time_left() <= 0 and not self._spoken and waited >= attempt.target.settings.ttft_timeout:
                ok = False
            raise
        finally:
            attempt.permit.settle(ok)
            self._metrics.observe_phases(attempt.target.label, attempt.phases, self._stream.beginning)
            if span is not None:
                span.end(attempt.phases, failure)

    async def _spoke(self, attempt: Attempt) -> None:
        """Note an attempt's first token: from here on it is the one that is told."""
        if self._hedge is not None:
            self._hedge.won()
        self._spoken = True
        self.transcript = attempt.transcript
        self._stream.target = attempt.target.name
        self._stream.move(State.STREAMING)
        attempt.permit.answered()
        self._first_token(attempt)
