"""The relay: pumps targets into one log, and brings the stream to its one ending.

One routine drives the first attempt and every later one. A strategy decides after each failure; the relay acts.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from server.attempt import Attempt, WholeAttempt
from server.config import Recovery
from server.core.billing import Bill
from server.core.conversation import turns
from server.core.errors import Kind, StoreError, StreamError, UpstreamError
from server.core.forms import Writer
from server.core.generation import Generation
from server.core.intake import Intake
from server.core.lifecycle import State, state_of
from server.core.ports import Strategy
from server.core.recollect import transcript_of
from server.core.records import Ending
from server.core.seam import Suppression, Trim
from server.core.transcript import Transcript
from server.hedge import Hedge
from server.plan import READ_ALL, Plan, Planner
from server.route import Route
from server.stream import Stream
from server.telemetry.metrics import Metrics
from server.tools.rounds import Rounds
from server.upstreams.pool import Target


class Relay:
    """One generation, from its first attempt to its ending. `run` is the task."""

    def __init__(
        self,
        stream: Stream,
        generation: Generation,
        route: Sequence[Target],
        *,
        writer: Writer,
        rounds: Rounds | None,
        strategy: Strategy,
        recovery: Recovery,
        total_timeout: float,
        metrics: Metrics,
    ) -> None:
        self._task: asyncio.Task[None] | None = None
        self._stop: StreamError | None = None  # why somebody stopped this stream; None: the process goes down
        self._stream = stream
        self._targets = route
        self._strategy = strategy
        self._recovery = recovery
        self._rounds = rounds
        self._writer = writer
        self._total_timeout = total_timeout
        self._metrics = metrics
        self._begin_round(rounds.generation if rounds else generation)
        self._bill = Bill(self._generation.body)
        self._tokens_before = 0  # of the rounds that are over
        self._hedge: Hedge | None = None
        self._spoken = False  # the running attempt has sent a token
        self._ttft: float | None = None
        self._accepted = time.monotonic()
        self._taken_over = stream.log.tail > 0
        self._owes_results = False  # the relay that is gone left calls of tools without their results

    def take_over(self) -> None:
        """Go on from what a relay that is gone has logged. To be called before `run`."""
        self._taken_over = True
        self._accepted -= self._stream.age

    def _begin_round(self, generation: Generation) -> None:
        """Take up the first or the next request to the model: attempts and what was said count for one of them."""
        self._generation = generation
        self._route = Route(self._targets)
        self._planner = Planner(
            self._stream,
            generation,
            self._route,
            strategy=self._strategy,
            settings=self._recovery,
            time_left=self._time_left,
        )
        self._transcript = Transcript(generation.choices)

    # --- the life of the stream --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Relay until the one ending is in the log, whatever happens."""
        self._task = asyncio.current_task()
        try:
            if self._taken_over:
                await self._recollect()
            if self._stop is not None:
                raise self._stop
            async with asyncio.timeout_at(self._accepted + self._total_timeout):
                await self._generate()
        except TimeoutError:
            if self._stream.ended.is_set():
                return  # the time ran out while a finished connection was tidied up
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

    def _time_left(self) -> float:
        return self._accepted + self._total_timeout - time.monotonic()

    async def _generate(self) -> None:
        plan = await self._taken_up() if self._taken_over else Plan(self._route.first())
        while plan is not None:
            if plan.wait:
                await asyncio.sleep(plan.wait)
            await self._stream.room()  # a stalled client that may never come back is not worth another attempt yet
            try:
                await self._attempt(plan)
            except UpstreamError as error:
                plan = await self._planner.after(plan, error, self._transcript)
                await self._announce(plan, error)
            else:
                if self._stream.ended.is_set() or not await self._next_round():
                    return
                answered = plan.target
                plan = Plan(answered if self._route[answered].breaker.available else self._route.first())

    async def _recollect(self) -> None:
        """Read from the log what was said and done. Raises StreamError where the store has lost a part of it."""
        log = self._stream.log
        records = await log.read(0, READ_ALL)
        self._writer.take_up(records)
        if self._rounds is not None:
            told = turns(records)
            self._rounds.take_up(told)
            self._begin_round(self._rounds.generation)
            self._bill = Bill(self._generation.body)
            self._owes_results = bool(told) and bool(told[-1].calls) and not told[-1].answered
        self._transcript, self._tokens_before = transcript_of(log.birth, records, self._generation.choices)
        if log.lost:
            raise StreamError("The store has lost records of this stream.", "records_lost", 502, retryable=True)

    async def _taken_up(self) -> Plan | None:
        """Return how to go on from another relay's log, as after any failure; None: nothing was left to say."""
        transcript = self._transcript
        if self._owes_results:
            transcript.finish[0] = "tool_calls"
            return Plan(self._route.first()) if await self._next_round(lost=True) else None
        if transcript.finished:
            await self._end_as_finished()
            return None
        if not transcript.begun:
            return Plan(self._route.first())
        # Whoever began to tell it is asked again: another target may tell another story.
        names = [self._route[index].name for index in range(len(self._route))]
        before = names.index(self._stream.target) if self._stream.target in names else self._route.first()
        error = UpstreamError(Kind.CUT, "The gateway that relayed this stream has gone.")
        self._stream.recoveries = -1  # while it is planned and announced: a takeover is none
        try:
            plan = await self._planner.after(Plan(before), error, transcript)
            await self._announce(plan, error)
        finally:
            self._stream.recoveries = 0
        return plan

    async def _next_round(self, *, lost: bool = False) -> bool:
        """Run the server's tools that a finished turn called; return whether the model is asked again.

        `lost`: a relay that is gone may have run them.
        """
        assert self._rounds is not None
        log, stream = self._stream.log, self._stream
        if not await self._rounds.run(lambda: log.read(0, READ_ALL), stream.append, lost=lost):
            await self._end_as_finished()
            return False
        self._bill.next_round(self._transcript, self._rounds.generation.body)
        self._tokens_before += self._transcript.tokens
        self._begin_round(self._rounds.generation)
        return True

    async def _announce(self, plan: Plan, error: UpstreamError) -> None:
        """Show which target is asked next; note a later attempt that is going to join what was delivered."""
        stream, target = self._stream, self._route[plan.target]
        if not plan.recovery:
            stream.target = target.name
            return
        stream.move(State.RECOVERING)
        stream.recoveries += 1
        event = {
            "attempt": stream.recoveries,
            "strategy": plan.recovery,
            "target": target.name,
            "reason": error.kind.value,
            "exact": plan.recovery == "restart" or target.settings.continuation != "user_turn",
        }
        await stream.append(self._writer.recovery(event))

    # --- one attempt -------------------------------------------------------------------------------------------

    async def _attempt(self, plan: Plan) -> None:
        """Carry a plan out: one request, or two where it is hedged. Raises UpstreamError; `plan.target` failed."""
        self._spoken = False
        self._writer.attempt()
        before = self._transcript.tokens
        self._bill.begin(self._transcript, continued=isinstance(plan.seam, Trim))
        outcome = "stopped"
        try:
            if self._recovery.hedge_after and self._generation.stream and not self._transcript.begun:
                await self._hedged(plan)
            else:
                await self._ask(plan, plan.target, self._transcript)
            outcome = "recovered"
        except UpstreamError as error:
            joined = self._transcript.tokens > before  # and was lost again: a failure of its own
            outcome = "recovered" if joined else "diverged" if error.kind is Kind.DIVERGED else "failed"
            raise
        finally:
            restarted = isinstance(plan.seam, Suppression)
            self._bill.settle(self._transcript, spoke=self._spoken, restarted=restarted)
            if plan.recovery:
                self._metrics.recoveries.labels(plan.recovery, outcome).inc()

    async def _hedged(self, plan: Plan) -> None:
        """Ask the next target too where the first token is late. Each has a transcript until one of them speaks."""
        choices = self._generation.choices
        self._hedge = Hedge(
            self._recovery.hedge_after,
            lambda target: self._ask(plan, target, Transcript(choices)),
            lambda: self._route.spare(plan.target),
        )
        try:
            await self._hedge.run(plan.target)
        finally:
            plan.target = self._hedge.target
            self._hedge = None

    async def _ask(self, plan: Plan, index: int, transcript: Transcript) -> None:
        """Make one request and relay it to its end. Raises UpstreamError where it fails."""
        target, generation = self._route[index], self._generation
        try:
            permit = self._route.begin(index)
            self._stream.target = target.name
            attempt = (Attempt if generation.stream else WholeAttempt)(
                target,
                generation.upstream_body(target.model, ask_usage=target.settings.usage, changes=plan.changes),
                dict(generation.trace),
                Intake(transcript, show_usage=generation.show_usage, seam=plan.seam),
                transcript,
                self._stream,
                self._writer,
                self._metrics,
                self._spoke,
                self._complete,
                permit,
            )
            await self._judged(attempt)
        except UpstreamError as error:
            error.message = target.client.unquoted(error.message)
            self._route.fail(index, error)
            raise

    async def _judged(self, attempt: Attempt) -> None:
        """Run an attempt and tell the target's circuit and the metrics what became of it."""
        ok: bool | None = None
        try:
            await attempt.run()
            ok = True
        except UpstreamError as error:
            ok = False if error.trait.breaks else None
            self._metrics.errors.labels(attempt.target.label, error.kind.value).inc()
            raise
        except asyncio.CancelledError:
            # A call that is not streamed has no other clock than the stream's: silence until then is the target's.
            waited = time.monotonic() - attempt.phases.started
            if self._time_left() <= 0 and not self._spoken and waited >= attempt.target.settings.ttft_timeout:
                ok = False
            raise
        finally:
            attempt.permit.settle(ok)
            self._metrics.observe_phases(attempt.target.label, attempt.phases, self._stream.birth)

    async def _spoke(self, attempt: Attempt) -> None:
        """Note an attempt's first token."""
        if self._hedge is not None:
            self._hedge.won()
        self._spoken = True
        self._transcript = attempt.transcript
        self._stream.target = attempt.target.name
        self._stream.move(State.STREAMING)
        attempt.permit.answered()
        if self._ttft is None and not self._taken_over:
            self._ttft = time.monotonic() - self._accepted
            self._metrics.observe_ttft(attempt.target.label, self._ttft)

    # --- the ending --------------------------------------------------------------------------------------------

    async def _complete(self) -> None:
        """End with what the upstream finished for, unless the server has tools to run first."""
        if self._rounds is None or not self._rounds.due(self._writer.called):
            await self._end_as_finished()

    async def _end_as_finished(self) -> None:
        reasons = frozenset(self._transcript.finish.values())
        await self._end(state_of(reasons), ",".join(sorted(reasons)))

    async def _fail(self, error: UpstreamError | StreamError) -> None:
        """End with an error: failed, or cancelled where that is what happened."""
        if isinstance(error, StreamError):
            state = State.CANCELLED if error.code == "cancelled" else State.FAILED
            status, code, retryable, retry_after = error.status, error.code, error.retryable, None
        else:
            state, status, code = State.FAILED, error.http_status, error.code or error.kind.value
            # Not asked again by us, but the same request may well succeed later: a target that was silent.
            retryable, retry_after = error.trait.same or status == 504, error.retry_after
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
            tokens=self._tokens_before + transcript.tokens,
            recoveries=self._stream.recoveries,
            ttft_ms=None if self._ttft is None else round(self._ttft * 1000, 3),
            usage=self._bill.shown(transcript),
            billed=self._bill.total(transcript),
            **failure,
        )
        await self._stream.finish(self._writer.ending(ending, transcript), ending)
