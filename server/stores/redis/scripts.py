"""The Lua scripts of the Redis store: what the server does in one step.

They are in `lua/`, one file each (https://redis.io/docs/latest/develop/programmability/).

Keys: `log:ID` (a hash), `records:ID` (a Redis Stream; one entry per append, its id the number of its last record),
`key:OWNER:KEY` (the log of an idempotency key), `instance:NAME` (exists while its lease runs), and the sorted sets
`logs` (by creation), `open` (without an ending), `ended` (by ending) and `kept` (ended ones with a retention of their
own, by the time when it is over); `total` counts bytes. Channels: `news:ID`, `claims`.
"""

from importlib.resources import files

_FOLDER = files(__package__) / "lua"


def _script(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


_TIME = _script("time")  # the function that tells the server's time
_DELETE = _script("delete")  # the function that deletes one log

SCRIPTS = {
    **{name: _script(name) for name in ("give_back", "orphans", "ours", "release")},
    **{name: _TIME + _script(name) for name in ("append", "claim", "create")},
    "disown": _DELETE + _script("disown"),
    "delete_ended": _DELETE + _script("delete_ended"),
    "sweep": _TIME + _DELETE + _script("sweep"),
}
