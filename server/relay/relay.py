"""The relay: pumps targets into one log, round by round, and brings the stream to its one ending."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from server.aio.deadline import Deadline
from server.config.settings import Recovery
from server.core.billing import Bill
from server.core.dialect import Writer
from server.core.errors import Kind, StoreError, StreamError, UpstreamError
from server.core.generation import Generation
from server.core.lifecycle import State, state_of
from server.core.ports import Strategy
from server.core.records import Ending
from server.core.replay import running
from server.core.timing import Phases
from server.relay.attempt import Attempt
from server.relay.plan import Plan
from server.relay.stream import Stream
from server.relay.turn import Turn
from server.telemetry.metrics import Metrics
from server.telemetry.traces import StreamSpan
from server.tools.loop import Answer, ToolLoop
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
        tool_loop: ToolLoop | None,
        strategy: Strategy,
        recovery: Recovery,
        total_timeout: float,
        metrics: Metrics,
        span: StreamSpan | None = None,
    ) -> None:
        self._task: asyncio.Task[None] | None = None
        self.stopped: StreamError | None = None  # why somebody stopped this stream; None: the process goes down
        self._stream = stream
        self._targets = route
        self._strategy = strategy
        self._recovery = recovery
        self._tool_loop = tool_loop
        self._writer = writer
        self._total_timeout = total_timeout
        self._metrics = metrics
        self.span = span
        generation = tool_loop.generation if tool_loop else generation
        self._bill = Bill(generation.body)
        self._received = generation.received
        self._begin_turn(generation)
        self._tokens_before = 0  # of the turns that are over
        self._attempts_before = 0
        self.phases: Phases | None = None  # of the attempt that spoke first
        self._ttft: float | None = None
        self._accepted = time.monotonic() if generation.received is None else generation.received
        self._taken_over = stream.log.tail > 0
        self._owes_results = False  # the relay that is gone left calls of tools without their results

    def take_over(self) -> None:
        """Go on from what a relay that is gone has logged. To be called before `run`."""
        self._taken_over = True
        self._accepted -= self._stream.age

    def _begin_turn(self, generation: Generation) -> None:
        """Take up the first or the next request to the model: attempts and what was said count for one of them."""
        self._turn = Turn(
            self._stream,
            generation,
            self._targets,
            writer=self._writer,
            strategy=self._strategy,
            recovery=self._recovery,
            bill=self._bill,
            metrics=self._metrics,
            time_left=self._time_left,
            received=self._received,
            span=self.span,
            first_token=self._first_token,
            complete=self._complete,
        )
        self._received = None  # what a later round's first attempt takes is none of the gateway's time

    # --- the life of the stream --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Relay until the one ending is in the log, whatever happens."""
        self._task = asyncio.current_task()
        try:
            if self._taken_over:
                await self._recollect()
            if self.stopped is not None:
                raise self.stopped
            async with Deadline() as deadline:
                deadline.set(self._accepted + self._total_timeout)
                await self._generate()
        except TimeoutError:
            if self._stream.ended.is_set():
                return  # the time ran out while a finished connection was tidied up
            words = f"The stream took longer than {self._total_timeout:g} seconds."
            await self._fail(StreamError(words, "total_timeout", 504, retryable=True))
        except asyncio.CancelledError:
            if self.stopped is None or self._stream.ended.is_set():
                raise
            await self._fail(self.stopped)
        except (UpstreamError, StreamError) as error:
            await self._fail(error)
        except StoreError:
            raise  # an ending cannot be written either: whoever owns the stream tells its readers
        except Exception:
            await self._fail(StreamError("The gateway failed on this stream.", "internal_error", 500))
            raise

    def stop(self, error: StreamError) -> None:
        """End the stream with `error`: the upstream's socket is closed in the task's next turn. Once only."""
        if self.stopped is None:
            self.stopped = error
            # A task that is cancelled before its first turn never runs, and would leave the log without an ending.
            if self._task is not None:
                self._task.cancel()

    def _time_left(self) -> float:
        return self._accepted + self._total_timeout - time.monotonic()

    async def _generate(self) -> None:
        plan = await self._taken_up() if self._taken_over else Plan(self._turn.tries.first())
        while plan is not None:
            answered = await self._turn.run(plan)
            if self._stream.ended.is_set() or not await self._next_turn():
                return
            tries = self._turn.tries
            plan = Plan(answered if tries[answered].breaker.available else tries.first())

    @property
    def attempts(self) -> int:
        """How many requests were made, or given up before they were: failed ones, too."""
        return self._attempts_before + self._turn.tries.made

    def _first_token(self, attempt: Attempt) -> None:
        self.phases = self.phases or attempt.phases
        if self._ttft is None and not self._taken_over:
            self._ttft = time.monotonic() - self._accepted
            self._metrics.observe_ttft(attempt.target.label, self._ttft)

    async def _recollect(self) -> None:
        """Read from the log what was said and done. Raises StreamError where the store has lost a part of it."""
        self._writer.resume(await self._stream.records())
        choices = self._turn.generation.choices
        turns = await self._stream.turns(choices)
        if self._tool_loop is not None:
            self._tool_loop.resume(turns)
            self._bill = Bill(self._tool_loop.generation.body)
            self._begin_turn(self._tool_loop.generation)
            self._owes_results = bool(turns[-1].calls) and not turns[-1].answered
        self._turn.transcript = running(turns, choices).transcript
        self._turn.transcript.usage = None  # of an attempt that is gone, and not billed again
        self._tokens_before = sum(turn.transcript.tokens for turn in turns if turn.calls)
        if self._stream.log.lost:
            raise StreamError("The store has lost records of this stream.", "records_lost", 502, retryable=True)

    async def _taken_up(self) -> Plan | None:
        """Return how to go on from another relay's log, as after any failure; None: nothing was left to say."""
        transcript = self._turn.transcript
        if self._owes_results:
            transcript.finish[0] = "tool_calls"
            return Plan(self._turn.tries.first()) if await self._next_turn(lost=True) else None
        if transcript.finished:
            await self._end_as_finished()
            return None
        if not transcript.begun:
            return Plan(self._turn.tries.first())
        # Whoever began to tell it is asked again: another target may tell another story.
        names = [self._turn.tries[index].name for index in range(len(self._turn.tries))]
        before = names.index(self._stream.target) if self._stream.target in names else self._turn.tries.first()
        return await self._turn.take_over(
            before, UpstreamError(Kind.CUT, "The gateway that relayed this stream has gone.")
        )

    async def _next_turn(self, *, lost: bool = False) -> bool:
        """Run the server's tools that a finished turn called; return whether the model is asked again.

        `lost`: a relay that is gone may have run them.
        """
        assert self._tool_loop is not None
        choices = self._turn.generation.choices
        turns = await self._stream.turns(choices)
        self._tool_loop.check_limit(turns)
        await self._run_tools(self._tool_loop.run(turns[-1].owed, lost=lost))
        if not self._tool_loop.next_request(await self._stream.turns(choices)):
            await self._end_as_finished()
            return False
        self._bill.next_round(self._turn.transcript, self._tool_loop.generation.body)
        self._tokens_before += self._turn.transcript.tokens
        self._attempts_before = self.attempts
        self._begin_turn(self._tool_loop.generation)
        return True

    async def _run_tools(self, calls: Sequence[asyncio.Task[Answer]]) -> None:
        """Log the results of calls, each as it comes."""
        try:
            for answer in asyncio.as_completed(calls):
                call, result = await answer
                await self._stream.append(self._writer.tool_result(call, result.fields()))
        finally:
            for task in calls:
                task.cancel()

    # --- the ending --------------------------------------------------------------------------------------------

    async def _complete(self) -> None:
        """End with what the upstream finished for, unless the server has tools to run first."""
        if self._tool_loop is None or not self._tool_loop.due(self._writer.called):
            await self._end_as_finished()

    async def _end_as_finished(self) -> None:
        reasons = frozenset(self._turn.transcript.finish.values())
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
        transcript = self._turn.transcript
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
