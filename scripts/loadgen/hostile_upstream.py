"""A hostile upstream: the model's name says what it does: `evil-NAME`."""

import asyncio
import base64
import gzip
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

KEY = "sk-hostile-0123456789-canary"  # the upstream's own key, which no client may see
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
DONE = b"d\r\ndata: [DONE]\n\r\n"
MEGABYTE = 1 << 20
MOST = 64 * MEGABYTE  # of what has no end
Send = Callable[[bytes], Awaitable[None]]
Body = dict[str, Any]


def chunk(data: bytes) -> bytes:
    """Return one piece of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(finish: str | None = None, usage: object = None, **delta: object) -> bytes:
    """Return one event."""
    payload: Body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    payload["choices"] = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return chunk(b"data: %b\n\n" % json.dumps(payload | ({"usage": usage} if usage is not None else {})).encode())


def call(index: int, name: str = "f", arguments: str = "") -> Body:
    """Return a piece of a tool call."""
    return {"index": index, "id": "same", "type": "function", "function": {"name": name, "arguments": arguments}}


def fat(before: bytes, part: bytes, after: bytes) -> bytes:
    """Return JSON of 3.9 MB: nearly as much as one event may have."""
    return before + part * (3_900_000 // len(part)) + after


def nested(depth: int) -> bytes:
    """Return lists in lists."""
    return b"[" * depth + b"]" * depth


WHOLE = HEAD + frame(content="x") + frame("stop")
ODD_USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":%b,"x":%b}}\n\n'
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
FAT = {
    "fat choices": fat(b'{"choices":[', b"{},", b"{}]}"),
    "fat lists": fat(b'{"choices":[{"delta":{"content":"a","x":[', b"[],", b"1]}}]}"),
    "fat error": fat(b'{"error":[', b"[],", b"1]}"),
    "fat names": b'{"choices":[{"delta":{%b}}]}' % b",".join(b'"%d":1' % number for number in range(350_000)),
    "long error": fat(b'{"error":{"message":"', b"context length rate limit ", b'"}}'),
}
QUOTES = {"message": f"Wrong key {KEY}", "code": KEY, "type": base64.b64encode(KEY.encode()).decode(), "param": KEY}

# What is sent at once, by name.
ANSWERS: dict[str, bytes] = {
    "plain": WHOLE + DONE + END,
    "usage": WHOLE + chunk(ODD_USAGE % (b"18446744073709551615", b"1")) + DONE + END,
    "deep usage": WHOLE + chunk(ODD_USAGE % (b"1", nested(254))) + DONE + END,
    "deep frame": HEAD + frame(content="x") + chunk(b"data: " + nested(100_000) + b"\n\n") + END,
    "many calls": HEAD + frame(tool_calls=[call(0)] * 8000) + frame("tool_calls") + DONE + END,
    "many indexes": HEAD + frame(tool_calls=[call(n, "hang", "{}") for n in range(200)]) + frame("tool_calls") + DONE
    + END,
    "hanging calls": HEAD + frame(tool_calls=[call(n, "hang", "{}") for n in range(40)]) + frame("tool_calls") + DONE
    + END,
    "quoted key": HEAD + frame(content="x") + chunk(b"data: %b\n\n" % json.dumps({"error": QUOTES}).encode()) + END,
    "odd finish": HEAD + frame(content="x") + frame("stop\r\n\u202e\u2028" + "x" * 1000) + DONE + END,
    "halves": HEAD + frame(content="\ud800") + frame("stop") + DONE + END,
    "later": b"HTTP/1.1 429 No\r\nRetry-After: 1" + b"0" * 20 + b"\r\nContent-Length: 0\r\n\r\n",
    "no http": b"\x00\x01\x02HTTP nonsense\r\n\r\n",
    "wrong length": HEAD.replace(b"Transfer-Encoding: chunked", b"Content-Length: 9999999") + b"data: {}\n\n",
    **{name: HEAD + frame(content="x") + chunk(b"data: %b\n\n" % data) + END for name, data in FAT.items()},
    **{f"{name}, whole": JSON_HEAD + chunk(data) + END for name, data in FAT.items()},
    "packed": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + chunk(gzip.compress(b"data: " + b" " * MOST, 9)) + END,
}  # fmt: skip
# What comes again and again, until the gateway hangs up: first, and then without end.
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "endless head": (b"HTTP/1.1 200 OK\r\nX: ", b"a" * 65_536),
    "endless line": (HEAD, chunk(b"data: " + b"a" * 65_536)),
    "endless comments": (HEAD + frame(content="x"), chunk(b": x\n" * 4096)),
    "endless nothing": (HEAD + frame(content="x"), chunk(b"data\n\n" * 10_000)),
    "endless chunks": (HEAD + frame(content="x"), chunk(b":") * 10_000),
    "endless lines": (HEAD + frame(content="x"), chunk(b"\r" * 65_536)),
    "endless names": (HEAD, frame(tool_calls=[call(0, "n" * 65_536)])),
    "endless arguments": (HEAD, frame(tool_calls=[call(0, "", "a" * 65_536)])),
    "endless text": (HEAD, frame(content="a" * 16_384)),
}
SLOW: dict[str, tuple[bytes, bytes]] = {
    "empty deltas": (HEAD + frame(content="x"), frame(role="assistant", content=""))
}
MODES = (*ANSWERS, *ENDLESS, *SLOW, "error", "echo")


async def answer(mode: str, body: Body, send: Send) -> None:
    """Answer one request."""
    if mode == "echo":  # whoever asks gets back what it said, and after it an answer that nobody has asked for
        said = str(body["messages"][0]["content"])
        whole = HEAD + frame(content=said) + frame("stop") + DONE + END
        await send(whole + (WHOLE + DONE + END if said.startswith("stray") else b""))
    elif mode == "error":
        text = json.dumps({"error": QUOTES}).encode()
        await send(
            b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text) + text
        )
    elif mode in ANSWERS:
        await send(ANSWERS[mode])
    else:
        first, again = (ENDLESS | SLOW)[mode]
        await send(first)
        for _ in range(MOST // len(again)):
            await send(again)
            if mode in SLOW:
                await asyncio.sleep(0.1)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection, with one request after the other."""

    async def send(data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    try:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = sum(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(length) or b"{}")
            await answer(str(body.get("model", "plain")).removeprefix("evil-").replace("_", " "), body, send)
    except (OSError, asyncio.IncompleteReadError, KeyError):
        pass
    finally:
        writer.close()


async def main(port: int) -> None:
    """Serve until the process is stopped."""
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=16 * MEGABYTE)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
