"""The content blocks of a message: one is open at a time, and their numbers have no gap.

A chat upstream may send several calls at once, or a text between the pieces of a call. The Messages API cannot say
that. So a block waits in a queue until those before it are whole, and what comes for it meanwhile waits with it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from server.core.openai.tool_calls import PartialCall
from server.core.records import Record
from server.core.wide_json import paired
from server.dialects.messages.events import BLOCK_START, BLOCK_STOP, SIGNATURE, delta_event, event, text_head

NOTHING = ("", "{}", "n", "nu", "nul", "null")  # arguments that may still become others
MAX_CHECKED = 65_536  # characters of arguments up to which it is found out whether they are whole
MAX_CHECKS = 100  # of that kind in one message: past it, a call is whole when the answer is

TEXT, THINKING, REDACTED, TOOL = "text", "thinking", "redacted_thinking", "tool_use"


@dataclass(slots=True)
class Block:
    """One block that is not closed. `pending` is what was not written yet."""

    kind: str
    fields: dict[str, Any] = field(default_factory=dict)  # of its start
    pending: list[str] = field(default_factory=list)
    signature: str = ""
    signed: bool = False  # its signature is in the log
    call: PartialCall | None = None
    written: int = 0  # characters of the call's arguments
    open: bool = False


class Blocks:
    """The blocks of one message. `name` gives a call its whole name, `identify` an id to a call without one."""

    def __init__(self, name: Callable[[str], str], identify: Callable[[int], str]) -> None:
        self.index = 0  # the number of the block that is open, or will be opened next
        self.calls = False  # there is a block of a call
        self._name = name
        self._identify = identify
        self._queue: deque[Block] = deque()
        self._ids: set[str] = set()
        self._checks = 0
        self._unsigned = False  # a block of thinking was closed without a signature

    @property
    def text_head(self) -> bytes:
        """How the event of a piece of text begins that can be written at once; empty if none can."""
        queue = self._queue
        return text_head(self.index) if len(queue) == 1 and queue[0].open and queue[0].kind == TEXT else b""

    # --- what comes ------------------------------------------------------------------------------------------------

    def say(self, kind: str, text: str) -> None:
        """Add a piece of text or thinking to the last block, or to a new one."""
        self._last(kind).pending.append(text)

    def sign(self, signature: str) -> None:
        """Add a signature to the thinking that came last. It ends that block.

        If that block is closed, its signature is too late: alone it would be one of thoughts that say nothing, and
        the next request with it would be refused. It comes so from a target that goes on where another broke off.
        """
        block = next((one for one in reversed(self._queue) if one.kind == THINKING), None)
        if block is None and self._unsigned:
            return
        (block or self._last(THINKING)).signature += signature

    def redacted(self, data: str) -> None:
        """Add a block of encrypted thinking."""
        self._queue.append(Block(REDACTED, {"data": data}))

    def call(self, call: PartialCall) -> None:
        """Add a block for a call, which may grow until the message ends."""
        self._queue.append(Block(TOOL, call=call))

    def restore(self, kind: str, index: int, call_id: object) -> None:
        """Take over a block that is open in the log."""
        self._queue.clear()
        self.index = index
        self._queue.append(Block(kind, open=True))
        if kind == TOOL:
            self.calls = True
        if isinstance(call_id, str):
            self._ids.add(call_id)

    def restore_closed(self) -> None:
        """Take over that the open block was closed in the log."""
        self._note_unsigned(self._queue[0] if self._queue else None)
        self._queue.clear()
        self.index += 1

    def restore_signed(self) -> None:
        """Take over that the open block has its signature in the log."""
        for block in self._queue:
            block.signed = True

    def _note_unsigned(self, closed: Block | None) -> None:
        if closed is not None and closed.kind == THINKING and not closed.signed:
            self._unsigned = True

    def _last(self, kind: str) -> Block:
        """Return the last block if it takes more of this kind, or a new one. Nothing comes after a signature."""
        if not self._queue or (last := self._queue[-1]).kind != kind or last.signature:
            self._queue.append(last := Block(kind))
        return last

    # --- what is written -------------------------------------------------------------------------------------------

    def flush(self, records: list[Record], *, final: bool = False) -> None:
        """Write what can be written now. `final`: nothing more comes, so that everything is whole."""
        queue = self._queue
        while queue:
            block, followed = queue[0], len(queue) > 1
            whole = final or (followed and self._whole(block))
            self._write(block, records, whole=whole)
            if not whole and not (block.signature and block.open):
                return
            self._close(records)

    def _close(self, records: list[Record]) -> None:
        block = self._queue.popleft()
        if block.open:
            self._note_unsigned(block)
            records.append(event(BLOCK_STOP, index=self.index))
            self.index += 1

    def _write(self, block: Block, records: list[Record], *, whole: bool) -> None:
        """Write what is pending of the first block."""
        if block.call is not None:
            self._write_call(block, block.call, records, whole=whole)
            return
        if not block.open and (block.pending or block.signature or block.fields):
            self._open(block, records)
        if block.pending:
            name = "text_delta" if block.kind == TEXT else "thinking_delta"
            records.append(delta_event(self.index, name, "".join(block.pending)))
            block.pending.clear()
        if block.signature:
            block.signed = True
            delta = {"type": SIGNATURE, "signature": block.signature}
            records.append(event("content_block_delta", index=self.index, delta=delta))

    def _write_call(self, block: Block, call: PartialCall, records: list[Record], *, whole: bool) -> None:
        """Write the arguments that are new. The block opens with the first of them: until then the name may grow."""
        if not whole and (block.written == call.size or not call.name):
            return
        text = call.text(block.written)
        if not block.written:
            stripped = text.strip()
            if stripped in NOTHING:
                if not whole:
                    return
                text = ""  # a tool without parameters
            elif stripped.startswith("{}"):  # Anthropic's first block has an empty object; some proxies pass it on
                text = stripped[2:]
        if not block.open and (call.name or call.size):
            identity = self._unique(call.id or self._identify(self.index))
            block.fields = {"id": identity, "name": self._name(call.name), "input": {}}
            self._open(block, records)
        if text:
            records.append(delta_event(self.index, "input_json_delta", text))
        block.written = call.size

    def _open(self, block: Block, records: list[Record]) -> None:
        block.open = True
        self.calls = self.calls or block.kind == TOOL
        fields = {TEXT: {"text": ""}, THINKING: {"thinking": "", "signature": ""}}.get(block.kind, block.fields)
        records.append(event(BLOCK_START, index=self.index, content_block={"type": block.kind, **fields}))

    def _unique(self, identity: str) -> str:
        """Return an id that no other call has: results name their call by it."""
        unique, repeats = identity, 0
        while unique in self._ids:
            repeats += 1
            unique = f"{identity}_{repeats}"
        self._ids.add(unique)
        return unique

    def _whole(self, block: Block) -> bool:
        """Whether a block that another one follows takes nothing more: a text, or a closed JSON object."""
        call = block.call
        if call is None:
            return True
        if not call.size or call.size > MAX_CHECKED or call.last != "}" or self._checks == MAX_CHECKS:
            return False
        self._checks += 1
        try:
            orjson.loads(paired(call.text(0)))
        except orjson.JSONDecodeError:
            return False
        return True
