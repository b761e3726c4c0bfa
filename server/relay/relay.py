"""The relay drives the turns of one stream, which append to its log, and gives the stream its one ending."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import structlog

from server.aio.deadline import Deadline
from server.core.billing import Bill
from server.core.dialect import Writer
from server.core.errors import Kind, StoreError, StreamError, UpstreamError
from server.core.generation import Generation
from server.core.lifecycle import State, state_of
from server.core.records import Ending, dump_ending, writable
from server.core.replay import inherited
from server.relay.idle import IdleRecords
from server.relay.plan import Plan, Rules
from server.relay.progress import Progress
from server.relay.stream import Stream
from server.relay.turn import Turn
from server.telemetry.logs import cause
from server.tools.loop import Answer, ToolLoop
from server.upstreams.pool import Target

log = structlog.get_logger("sluiceway")


class Relay:
    """One generation, from its first attempt to its ending. `run` is the task.

    `tool_loop` runs the server's tools, if the dialect offers them.
    """

    def __init__(
        self,
        stream: Stream,
        generation: Generation,
        targets: Sequence[Target],
        writer: Writer,
        tool_loop: ToolLoop | None,
        rules: Rules,
        progress: Progress,
    ) -> None:
        self.stopped: StreamError | None = None  # why the stream was stopped; None at a cancel: the process ends
        self.progress = progress
        self._task: asyncio.Task[None] | None = None
        self._stream = stream
        self._targets = targets
        self._writer = writer
        self._tool_loop = tool_loop
        self._rules = rules
        self._idle = IdleRecords(stream, writer)
        self._turn = self._new_turn(generation if tool_loop is None else tool_loop.generation)

    def _new_turn(self, generation: Generation) -> Turn:
        return Turn(self._stream, self._writer, generation, self._targets, self._rules, self.progress)

    # --- the life of the stream --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Relay until the log has the one ending, whatever happens.

        Raises:
            CancelledError: the process ends, and the log stays open for another relay.
            StoreError: the log cannot be written.
            Exception: a bug of the gateway. The log has its ending.

        """
        self._task = asyncio.current_task()
        self._idle.start()
        try:
            await self._run()
        finally:
            self._idle.stop()
            # The task keeps the error that it ends with, and the error knows the frames that it has passed: together
            # with this object they would stay until a collection.
            self._task = None

    async def _run(self) -> None:
        """Relay until the log has its ending. Raises as `run` does."""
        try:
            await self._until_ended()
        except TimeoutError:
            text = f"The stream took longer than {self.progress.total_timeout:g} seconds."
            failure: UpstreamError | StreamError = StreamError(text, "total_timeout", 504, retryable=True)
        except asyncio.CancelledError:
            if self.stopped is None:
                raise
            failure = self.stopped
        except (UpstreamError, StreamError) as error:
            failure = replace(error)  # a copy: see `Turn.run`
        except StoreError:
            raise  # the ending cannot be written either; the caller tells the readers
        except Exception:
            await self._fail(StreamError("The gateway failed on this stream.", "internal_error", 500))
            raise
        else:
            await self._turn.close()  # after the ending, so that the client does not wait for the upstream
            return
        await self._fail(failure)

    def stop(self, error: StreamError) -> None:
        """End the stream with `error`. The task closes the upstream's socket when it runs next. Once only."""
        if self.stopped is None:
            self.stopped = error
            # A task that is cancelled before it has begun never runs. The log would have no ending.
            if self._task is not None:
                self._task.cancel()

    async def _until_ended(self) -> None:
        """Relay turn after turn. The caller closes the last one."""
        if self.progress.taken_over:
            self._turn.running.inherited()  # to be cancelled, if this relay is stopped before it goes on
        owes_results = await self._inherit() if self.progress.taken_over else False
        if self.stopped is not None:
            raise replace(self.stopped)
        if not self._stream.log.tail:
            await self._stream.append(self._writer.begin())
        with Deadline() as deadline:
            deadline.set(self.progress.ends)
            plan = await self._first_plan(owes_results=owes_results)
            while plan is not None:
                await self._turn.run(plan)
                plan = await self._after_turn()

    async def _first_plan(self, *, owes_results: bool) -> Plan | None:
        """Return the plan to begin, or to go on from another relay's log. None: nothing was missing; it has ended."""
        turn = self._turn
        if owes_results:
            turn.transcript.finish[0] = "tool_calls"
            return Plan(self._turn.tries.first()) if await self._next_turn(lost=True) else None
        if turn.transcript.closing:
            await self._end_as_finished()
            return None
        error = UpstreamError(Kind.CUT, "The gateway that relayed this stream has gone.")
        if not turn.transcript.begun:
            rest = turn.running.inherited(error)
            return Plan(turn.tries.first()) if rest is None else Plan(rest.target, rest=rest)
        # The same target is asked again, because another one may give another text.
        target = turn.tries.named(self._stream.target)
        return await turn.take_over(turn.tries.first() if target is None else target, error)

    async def _after_turn(self) -> Plan | None:
        """Return the plan of the next turn. None: the answer of this turn was the last, and the stream has ended."""
        turn = self._turn
        try:
            await self._stream.append(self._writer.end_turn())
            if self._tool_loop is None or not self._tool_loop.due(self._writer.finished_calls):
                await self._end_as_finished()
                return None
        except BaseException:
            turn.abandon()
            raise
        await turn.close()
        if not await self._next_turn():
            return None
        target = turn.target
        return Plan(target if turn.tries[target].breaker.available else self._turn.tries.first())

    async def _inherit(self) -> bool:
        """Go on from another relay's log; return whether the server's tools still owe results.

        Raises StreamError if the store has lost a part of the log.
        """
        records = await self._stream.records()
        self._writer.resume(records)
        choices = self._turn.generation.choices
        turns = await self._stream.replayed(records, choices)
        if self._tool_loop is not None:
            self._tool_loop.resume(turns)
            self.progress.bill = Bill(self._tool_loop.generation.body)
            self._turn = self._new_turn(self._tool_loop.generation)
        start = inherited(turns, choices)
        self._turn.transcript, self.progress.tokens = start.transcript, start.tokens
        if self._stream.log.lost:
            raise StreamError("The store has lost records of this stream.", "records_lost", 502, retryable=True)
        return self._tool_loop is not None and start.owes_results

    async def _next_turn(self, *, lost: bool = False) -> bool:
        """Run the server's tools that a finished turn called; return whether the model is asked again.

        If not, the stream has ended. `lost`: an earlier relay may have run them.
        """
        assert self._tool_loop is not None
        choices = self._turn.generation.choices
        turns = await self._stream.turns(choices)
        self._tool_loop.check_limit(turns)
        await self._run_tools(self._tool_loop.run(turns[-1].unanswered_calls, lost=lost))
        if not self._tool_loop.next_request(await self._stream.turns(choices)):
            await self._end_as_finished()
            return False
        self.progress.bill.next_turn(self._turn.transcript, self._tool_loop.generation.body)
        self.progress.tokens += self._turn.transcript.tokens
        self._turn = self._new_turn(self._tool_loop.generation)
        return True

    async def _run_tools(self, calls: Sequence[asyncio.Task[Answer]]) -> None:
        """Log the result of each call as soon as it is there."""
        try:
            for answer in asyncio.as_completed(calls):
                call, result = await answer
                await self._stream.append(self._writer.tool_result(call, result.fields()))
        finally:
            for task in calls:
                task.cancel()

    # --- the ending --------------------------------------------------------------------------------------------

    async def _end_as_finished(self) -> None:
        reasons = frozenset(self._turn.transcript.finish.values())
        await self._end(state_of(reasons), ",".join(sorted(reasons)))

    async def _fail(self, error: UpstreamError | StreamError) -> None:
        """End with an error: failed, or cancelled if that is what happened."""
        if self._stream.log.ending is not None:
            return  # the time ran out, or a stop came, while the ending was being written: it stands
        if isinstance(error, StreamError):
            state = State.CANCELLED if error.code == "cancelled" else State.FAILED
            status, code, retryable, retry_after = error.status, error.code, error.retryable, None
        else:
            # The upstream's own code is for the client, in `error`: it may be anything, and the reason is logged.
            state, status, code = State.FAILED, error.http_status, error.kind.value
            retryable, retry_after = error.retryable, error.retry_after
        body = error.body()
        body["error"]["retryable"] = retryable
        await self._end(state, code, error=body, status=status, retry_after=retry_after)
        self._turn.running.cancel()  # after the ending, so that no client waits for that

    async def _end(self, state: State, reason: str, **failure: Any) -> None:
        """Write the ending.

        It repeats what the upstream says, some of which may be impossible to write. Then the ending goes without that:
        a stream without an ending would hold its client for ever.
        """
        self.progress.note_ending()
        self._idle.stop()
        ending = self._ending(state, reason, **failure)
        try:
            records = self._writer.ending(ending, self._turn.transcript)
            dump_ending(ending)
        except Exception as error:  # noqa: BLE001 — whatever the dialect's writer raises
            log.warning("ending cut short", stream_id=self._stream.id, **cause(error))
            ending = _bare(ending)
            records = self._writer.ending(ending, self._turn.transcript)
        await self._stream.finish(records, ending)

    def _ending(self, state: State, reason: str, **failure: Any) -> Ending:
        transcript, progress = self._turn.transcript, self.progress
        return Ending(
            state=state,
            reason=reason,
            at=time.time(),
            target=self._stream.target,
            tokens=progress.tokens + transcript.tokens,
            recoveries=self._stream.recoveries,
            ttft_ms=None if progress.ttft is None else round(progress.ttft * 1000, 3),
            usage=progress.bill.shown(transcript),
            billed=progress.bill.total(transcript),
            **failure,
        )


def _bare(ending: Ending) -> Ending:
    """Return an ending without anything that an upstream said."""
    error = None
    if ending.error is not None:
        text = "The stream failed, and what its upstream said of it cannot be shown."
        error = StreamError(text, "upstream_garbage", 502).body()
        error["error"]["retryable"] = bool(ending.error["error"].get("retryable"))
    return replace(
        ending, reason=ending.state.value, target=writable(ending.target), usage=None, billed=None, error=error
    )
