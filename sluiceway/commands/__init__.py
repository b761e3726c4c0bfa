"""`sluiceway tail`, `sluiceway chat` and `sluiceway streams`: commands that use a running gateway."""

import argparse
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Callable

from sluiceway.commands.library import httpx2
from sluiceway.commands.printing import EVENTS, has_events, print_stream
from sluiceway.commands.streams_table import Look, table
from sluiceway.commands.terminal import (
    DEFAULT_URL,
    KEY_VARIABLE,
    CommandError,
    Interrupts,
    connect,
    get_list,
    note,
    say,
)

FAILED = 1
INTERRUPTED = 130  # the status that shells use for SIGINT
STREAM_ID = re.compile(r"[A-Za-z0-9_-]+")
CLEAR = "\x1b[H\x1b[J"  # move to the top left and clear everything below


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the three commands to the command line."""
    tail = commands.add_parser("tail", help="print a stream as it comes, from its beginning")
    tail.add_argument("id", help="the id of the stream")
    tail.add_argument("--after", type=int, default=0, metavar="SEQ", help="begin after this event")
    tail.add_argument("--raw", action="store_true", help="print the events as they are sent")
    _add(tail, _tail)
    chat = commands.add_parser("chat", help="talk to a model; an answer survives lost connections")
    chat.add_argument("--model", help="the model to talk to; the gateway's first one by default")
    chat.add_argument("--system", help="the system message")
    _add(chat, _chat)
    streams = commands.add_parser("streams", help="watch the streams: age, tokens/s, lag, who is stalling")
    streams.add_argument("--once", action="store_true", help="print them once")
    streams.add_argument("--all", action="store_true", help="also the streams that have ended")
    streams.add_argument(
        "--interval", type=_seconds, default=1.0, metavar="SECONDS", help="seconds between two looks; 1 by default"
    )
    _add(streams, _streams)


def _add(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace, httpx2.Client], None]) -> None:
    parser.add_argument(
        "--url",
        default=DEFAULT_URL,
        help=f"the gateway's address; {DEFAULT_URL} by default. Its key is taken from {KEY_VARIABLE}",
    )
    parser.set_defaults(run=lambda options: _run(command, options))


def _run(command: Callable[[argparse.Namespace, httpx2.Client], None], options: argparse.Namespace) -> int:
    try:
        with connect(options.url) as client:
            command(options, client)
    except CommandError as error:
        print(f"sluiceway: {error}", file=sys.stderr)  # noqa: T201 — the command's output
        return FAILED
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python's last flush fails, too
        return FAILED
    except UnicodeError:
        print("sluiceway: what was given is not UTF-8.", file=sys.stderr)  # noqa: T201
        return FAILED
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        print(f"sluiceway: {options.url}: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def _tail(options: argparse.Namespace, client: httpx2.Client) -> None:
    if not STREAM_ID.fullmatch(options.id):
        raise CommandError(f"{options.id!r} is no id of a stream.")
    dialect = {} if options.raw else {"format": "openai"}
    params = {**dialect, "after": str(options.after)}
    with client.stream("GET", f"/v1/streams/{options.id}", params=params, headers={"Accept": EVENTS}) as response:
        if not options.raw or not has_events(response):
            print_stream(response)
            return
        for chunk in response.iter_raw():
            say(chunk.decode())  # never half a character: the transport passes on whole events


def _chat(options: argparse.Namespace, client: httpx2.Client) -> None:
    model = options.model or _first_model(client)
    messages = [{"role": "system", "content": options.system}] if options.system else []
    note(f"{model}; an empty line or Ctrl-D ends, Ctrl-C stops an answer")
    with Interrupts() as interrupts:
        _converse(client, model, messages, interrupts)


def _converse(client: httpx2.Client, model: str, messages: list[dict[str, str]], interrupts: Interrupts) -> None:
    while question := _ask():
        messages.append({"role": "user", "content": question})
        interrupts.forget()
        try:
            messages.append({"role": "assistant", "content": _answer(client, model, messages, interrupts.check)})
        except KeyboardInterrupt:
            note("stopped")  # closing the response has aborted the stream
            messages.pop()
        except (CommandError, httpx2.TransportError) as error:
            if not sys.stdin.isatty():
                raise  # input from a file or a pipe: nobody can ask again
            note(str(error))
            messages.pop()


def _ask() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return ""


def _answer(client: httpx2.Client, model: str, messages: list[dict[str, str]], check: Callable[[], None]) -> str:
    body = {"model": model, "messages": messages, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        return print_stream(response, check)


def _first_model(client: httpx2.Client) -> str:
    names = [str(model["id"]) for model in get_list(client, "/v1/models")]
    if not names:
        raise CommandError("This gateway lists no model: say which one with --model.")
    return names[0]


def _streams(options: argparse.Namespace, client: httpx2.Client) -> None:
    before = None
    while True:
        try:
            look = Look.now(get_list(client, "/v1/streams"))
        except CommandError as error:
            if before is None:
                raise
            lines = [str(error)]  # the gateway may be restarting: look again
        else:
            room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            lines = table(look, before, ended=options.all, room=room)
            before = look
        sys.stdout.write(CLEAR if sys.stdout.isatty() and not options.once else "")
        say("\n".join(lines) + "\n")
        if options.once:
            return
        time.sleep(options.interval)
