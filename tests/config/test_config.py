"""The configuration: every key right and wrong, every mistake at once, and no secret in a message."""

from __future__ import annotations

import copy
import hashlib
import itertools
import re
import ssl
import tomllib
from datetime import date, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from server.config.check import check, load, parse
from server.config.problems import ConfigError
from server.config.settings import Settings, Target, is_loopback

ROOT = Path(__file__).parents[2]
HASH = hashlib.sha256(b"token").hexdigest()
SMALLEST: dict[str, Any] = {
    "upstreams": [{"name": "local", "base_url": "http://127.0.0.1:8081/v1"}],
    "models": [{"name": "*", "targets": ["local/*"]}],
}
KEY = {"name": "web", "sha256": HASH}
TABLES = {name: (get_args(f.annotation) or (f.annotation,))[0] for name, f in Settings.model_fields.items()}

# The contract's configuration with its defaults, as it is written there.
CONTRACT = """
[server]
host = "127.0.0.1"
port = 8080
max_streams = 10000
max_body_bytes = 8388608
shutdown_grace = 30.0
drain_notice = 5.0
event_loop = "uvloop"
cors_origins = []
[flow]
drain_timeout = 30.0
max_lag_bytes = 65536
send_buffer_bytes = 65536
heartbeat_interval = 15.0
early_open_after = 5.0
[streams]
on_disconnect = "cancel"
linger = 60.0
total_timeout = 3600.0
retention = 600.0
max_stream_bytes = 16777216
[responses]
retention = 3600.0
[store]
kind = "memory"
path = "data/streams.db"
url = "redis://127.0.0.1:6379/0"
max_bytes = 1073741824
lease = 10.0
[[upstreams]]
name = "local"
base_url = "http://127.0.0.1:8081/v1"
auth = "bearer"
query = {}
header_env = {}
connect_timeout = 5.0
ttft_timeout = 30.0
idle_timeout = 30.0
last_resort_timeout = 300.0
continuation = "none"
usage = true
[[models]]
name = "*"
targets = ["local/*"]
[recovery]
strategy = "auto"
max_retries = 2
max_recoveries = 3
backoff = 0.5
hedge_after = 0.0
breaker_failures = 5
breaker_reset = 10.0
[tools]
max_rounds = 8
timeout = 30.0
max_concurrency = 16
max_result_bytes = 65536
[tools.functions]
[preprocess]
timeout = 1.0
"""

SECONDS = ([0.001, 1, 2.5, 86_400], [0, -1, "1", True, float("inf"), float("nan"), 1e300])
SECONDS_OR_ZERO = ([0, 0.0, 2.5], [-0.1, "0", False, float("inf"), float("nan"), 10**400])
COUNT = ([1, 1_000_000], [0, -1, 1.0, "1", True, 1 << 70])
BYTES = ([1, 1 << 30], [0, -1, 1.5, "1k", True, 1 << 50])
BUFFER = ([1024, 1 << 20], [0, 1023, 65536.0, "64k", True, 1 << 40])
TIMES = ([0, 3], [-1, 1.0, "3", True, 1 << 40])
FLAG = ([True, False], [1, 0, "true", []])
NAME = (["a", "my-name_1.0"], ["", "a/b", "a b", "é", "a\n", 1, []])
ENTRY = (["a:b", "my.module:run_it"], ["", "a", "a.b", "a:", ":b", "a:b:c", "1a:b", "a b:c", 1, []])
URL = (
    ["http://h", "https://h.example:8443/v1/", "http://[::1]:80"],
    [
        "",
        "h:80",
        "ftp://h",
        "http://",
        "http://h?a=b",
        "http://h#a",
        "http://h:99999",
        "http://h:0",
        "http://[::",
        "http://a b",
        1,
    ],
)

# Each key: values that are right, values that are wrong.
KEYS: dict[str, tuple[list[Any], list[Any]]] = {
    "server.host": (["127.0.0.1", "127.8.9.1", "::1", "localhost"], ["", "a b", "[::1]", "h:80", "-a", 1, []]),
    "server.port": ([0, 1, 65535], [-1, 65536, 80.0, "80", True]),
    "server.max_streams": COUNT,
    "server.max_body_bytes": BYTES,
    "server.max_upload_bytes": BYTES,
    "server.max_held_bytes": BYTES,
    "server.shutdown_grace": SECONDS_OR_ZERO,
    "server.drain_notice": SECONDS_OR_ZERO,
    "server.event_loop": (["uvloop", "asyncio"], ["trio", "", 1]),
    "server.cors_origins": ([[], ["https://a.example", "http://localhost:3000"]], ["https://a.example", 1, {}]),
    "server.cors_origins[0]": (["https://a.example"], ["a.example", "https://a.example/", "null", "", 1, []]),
    "flow.drain_timeout": SECONDS,
    "flow.max_lag_bytes": BUFFER,
    "flow.send_buffer_bytes": BUFFER,
    "flow.heartbeat_interval": SECONDS,
    "flow.early_open_after": SECONDS_OR_ZERO,
    "streams.on_disconnect": (["cancel", "continue"], ["abort", "", True]),
    "streams.linger": SECONDS_OR_ZERO,
    "streams.total_timeout": SECONDS,
    "streams.retention": SECONDS_OR_ZERO,
    "streams.max_stream_bytes": BYTES,
    "responses.retention": SECONDS_OR_ZERO,
    "store.kind": NAME,
    "store.path": (["streams.db", "/var/lib/a b/é.db"], ["", "a\nb", "a\0", 1, []]),
    "store.url": (
        [
            "redis://h:1/0",
            "rediss://:pw@h",
            "unix:///run/redis.sock",
            "redis+sentinel://:p%2Fw@a:1,b/main/0?sentinel_password=x",
            "rediss+sentinel://a/main",
        ],
        [
            "",
            "h:1",
            "http://h",
            "redis://a b",
            "redis+sentinel://a:1",
            "redis+sentinel://a:1/",
            "redis+sentinel:///x",
            1,
        ],
    ),
    "store.url_env": (["REDIS_URL"], ["", "1A", "A-B", "A B", 1]),
    "store.max_bytes": BYTES,
    "store.lease": SECONDS,
    "upstreams[0].name": NAME,
    "upstreams[0].base_url": (URL[0], [*URL[1], "http://user:pw@h/v1", "http://h/v1/chat/completions"]),
    "upstreams[0].api_key_env": (["LOCAL_API_KEY", "lower"], ["", "1A", "A-B", "A B", 1]),
    "upstreams[0].organization_env": (["ORGANIZATION"], ["", "org-12345", 1]),
    "upstreams[0].headers": ([{}, {"X-Title": "a b"}], ["X-Title: a", [], 1]),
    "upstreams[0].headers.X-A": (["", "a b"], ["a\r\nb", "é", 1, []]),
    'upstreams[0].headers."a b"': ([], ["a"]),
    "upstreams[0].headers.authorization": ([], ["Bearer x"]),
    "upstreams[0].api": (["chat", "other"], ["", "a b", 1, []]),
    "upstreams[0].background": (["asked", "always", "never"], ["", "Always", True, 1, []]),
    "upstreams[0].auth": (["bearer", "api-key", "x-api-key"], ["", "Bearer", "basic", 1, []]),
    "upstreams[0].query": ([{}, {"api-version": "2026-10-01", "$x": ""}], ["api-version=1", [], 1]),
    "upstreams[0].query.a": (["", "a b&c=%"], ["é", "a\n", 1, []]),
    'upstreams[0].query."a b"': ([], ["a"]),
    "upstreams[0].header_env": ([{}, {"X-A": "PATH"}], ["X-A", [], 1]),
    "upstreams[0].header_env.X-A": (["PATH", "lower"], ["", "1A", "A-B", "a secret", 1]),
    'upstreams[0].header_env."a b"': ([], ["PATH"]),
    "upstreams[0].header_env.authorization": ([], ["PATH"]),
    "upstreams[0].proxy": ([*URL[0], "http://user:pw@h:3128"], URL[1]),
    "upstreams[0].ca_file": ([], ["", "/does/not/exist", "a\0b", str(ROOT), 1]),
    "upstreams[0].connect_timeout": SECONDS,
    "upstreams[0].ttft_timeout": SECONDS,
    "upstreams[0].idle_timeout": SECONDS,
    "upstreams[0].last_resort_timeout": SECONDS,
    "upstreams[0].continuation": (
        ["none", "assistant", "continue_final_message", "prefix", "partial", "user_turn"],
        ["", "auto", 1],
    ),
    "upstreams[0].usage": FLAG,
    "models[0].name": (
        ["*", "small", "org/model:tag", "sonnet[1m]", "gpt-*", "*-mini", "org/*:free", "gpt-3.*"],
        ["", "a b", "a\n", 1, "gpt *", "é*", "**", "gpt-**", "gpt-?*", "gpt-[45]*", "^gpt-.*$", "(a|b)*", "{a,b}*"],
    ),
    "models[0].targets": ([["local/a"], ["local/*", "local/a/b:c"]], [[], "local/a", {}, 1]),
    "models[0].targets[0]": (
        ["local/a", "local/*"],
        ["", "local", "local/", "/a", "local/a b", "other/a", "local/é", "local/gpt-*", "local/**", "*", "*/*", 1, []],
    ),
    "models[0].ttft_timeout": SECONDS,
    "models[0].idle_timeout": SECONDS,
    "models[0].last_resort_timeout": SECONDS,
    "recovery.strategy": NAME,
    "recovery.max_retries": TIMES,
    "recovery.max_recoveries": TIMES,
    "recovery.backoff": SECONDS_OR_ZERO,
    "recovery.hedge_after": SECONDS_OR_ZERO,
    "recovery.breaker_failures": COUNT,
    "recovery.breaker_reset": SECONDS,
    "keys[0].name": NAME,
    "keys[0].models": ([["*"], ["small", "gpt-*"], []], ["*", {}, 1]),
    "keys[0].models[0]": (["*", "org/model:tag", "gpt-*"], ["", "a b", 1, "**", "gpt-[45]*"]),
    "keys[0].sha256": ([HASH], ["", HASH[1:], HASH.upper(), hashlib.sha256(b"").hexdigest(), "token", 1]),
    "keys[0].admin": FLAG,
    "keys[0].max_streams": COUNT,
    "keys[0].requests_per_minute": COUNT,
    "tools.max_rounds": COUNT,
    "tools.timeout": SECONDS,
    "tools.max_concurrency": COUNT,
    "tools.max_result_bytes": BYTES,
    "tools.functions": ([{}, {"now": "a:b"}], ["a:b", [], 1]),
    "tools.functions.now": ENTRY,
    'tools.functions."a b"': ([], ["a:b"]),
    "mcp[0].name": NAME,
    "mcp[0].command": ([["a"], ["a", "--b c"]], [[], "a", 1]),
    "mcp[0].command[0]": (["a"], ["", "a\0", 1]),
    "mcp[0].env": ([{}, {"SITE": "a b"}], ["SITE=a", [], 1]),
    "mcp[0].env.SITE": (["a b"], ["", "a\0", 1]),
    "mcp[0].env.A-B": ([], ["a"]),
    "mcp[0].env_from": ([[], ["WEIR_KEY"]], ["WEIR_KEY", {}, 1]),
    "mcp[0].env_from[0]": (["WEIR_KEY"], ["", "A-B", "a=b", 1]),
    "mcp[1].headers": ([{}, {"X-Site": "a b"}], ["X-Site: a", [], 1]),
    "mcp[1].headers.X-A": (["", "a b"], ["a\r\nb", "é", 1, []]),
    "mcp[1].headers.authorization": ([], ["Bearer x"]),
    "mcp[1].header_env": ([{}, {"Authorization": "WEIR_TOKEN", "x-api-key": "WEIR_KEY"}], ["WEIR_TOKEN", [], 1]),
    "mcp[1].header_env.X-A": (["WEIR_KEY"], ["", "a b", 1]),
    "mcp[1].header_env.host": ([], ["WEIR_KEY"]),
    "preprocess.timeout": SECONDS,
    "preprocess.anything": ENTRY,
}


def tree_with(key: str, value: object) -> dict[str, Any]:
    """Return a right configuration with one key set, made of the path as messages print it."""
    tree = copy.deepcopy(SMALLEST) | {
        "keys": [dict(KEY)],
        "mcp": [{"name": "files", "command": ["a"]}, {"name": "b", "url": "http://h"}],
    }
    tree["upstreams"].insert(0, {"name": "first", "base_url": "http://h"})
    parts = [part.strip('."') for part in re.findall(r'"[^"]+"|\[\d+\]|[^.\[\]"]+', key) if part != "."]
    at: Any = tree
    for part, following in itertools.pairwise(parts):
        empty: Any = [] if following.startswith("[") else {}
        at = at[int(part[1:-1])] if part.startswith("[") else at.setdefault(part, empty)
    if parts[-1].startswith("["):
        at[:1] = [value]
    else:
        at[parts[-1]] = value
    return tree


def problems_of(tree: dict[str, Any], **environ: str) -> list[str]:
    """Return the lines of the error, none if there is no error."""
    try:
        parse(tree, environ)
    except ConfigError as error:
        return str(error).split("\n")
    return []


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (good, _) in KEYS.items() for value in good])
def test_right_value(key: str, value: object) -> None:
    """Every key takes the values that it is for."""
    assert problems_of(tree_with(key, value)) == []


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, (_, bad) in KEYS.items() for value in bad])
def test_wrong_value(key: str, value: object) -> None:
    """A wrong type, range or form is one line that begins with the key and says what would be right."""
    (line,) = problems_of(tree_with(key, value))
    assert line.startswith(f"{key}: ")
    assert "expected " in line


def test_mcp_url() -> None:
    """A tool server is reached at a URL instead of started by a command, never both and never neither."""
    for url, key in ((1, "mcp[0].url: "), ("h", "mcp[0].url: "), ("http://h/mcp", "")):
        lines = problems_of(SMALLEST | {"mcp": [{"name": "a", "url": url}]})
        assert [line[: len(key)] for line in lines] == ([key] if key else [])
    neither, both = problems_of(SMALLEST | {"mcp": [{"name": "a"}, {"name": "b", "url": "http://h", "command": ["a"]}]})
    assert neither == 'mcp[0]: neither — expected one of "command" and "url"'
    assert both == 'mcp[1]: both — expected one of "command" and "url"'
    mixed = [
        {"name": "a", "url": "http://h", "env": {"A": "b"}},
        {"name": "b", "command": ["a"], "header_env": {"A": "B"}},
    ]
    assert problems_of(SMALLEST | {"mcp": mixed}) == [
        'mcp[0].env: a table — expected only with "command"',
        'mcp[1].header_env: a table — expected only with "url"',
    ]


def test_variables_of_tool_servers() -> None:
    """A variable that is not set is a warning. One that no header can hold is an error. No value is shown."""
    entry = {"name": "a", "url": "http://h", "header_env": {"Authorization": "WEIR_TOKEN"}}
    tree = SMALLEST | {"mcp": [entry, {"name": "b", "command": ["a"], "env_from": ["WEIR_KEY"]}]}
    assert problems_of(tree) == []
    assert problems_of(tree, WEIR_TOKEN="Bearer secret", WEIR_KEY="") == []
    (line,) = problems_of(tree, WEIR_TOKEN="secret\n")
    assert line.startswith("mcp[0].header_env.Authorization: ")
    assert "secret" not in line


def test_every_key_is_tested_and_described() -> None:
    """No key of the settings is missing in the table above, and each has a description for the reference."""
    tested = {tuple(re.split(r"(?:\[\d\])?\.", key)[:2]) for key in KEYS} | {("mcp", "url")}
    for section, table in TABLES.items():
        assert [key for key in table.model_fields if (section, key) not in tested] == []
        assert all(field.description for field in table.model_fields.values())
        assert table.__doc__


def test_contract_defaults() -> None:
    """The settings of an almost empty file are those of the contract, and so are those of config.toml."""
    contract = parse(tomllib.loads(CONTRACT), {})
    assert parse(SMALLEST, {}) == contract
    assert load(ROOT / "config.toml", {}) == contract
    assert check(ROOT / "config.toml", {}) == []
    owner = parse(SMALLEST | {"keys": [KEY]}, {}).keys[0]
    assert (owner.models, owner.admin, owner.max_streams, owner.requests_per_minute) == (("*",), False, 100, 600)


def test_config_toml_comments() -> None:
    """config.toml shows every key, and what is commented out there is right too."""
    text = (ROOT / "config.toml").read_text(encoding="utf-8")
    lines = [re.sub(r"^# (?=\[\[|[a-z0-9_]+ = )", "", line) for line in text.splitlines()]
    tree = tomllib.loads("\n".join(lines).replace('"…"', f'"{HASH}"').replace("ca_file", "# ca_file"))
    assert parse(tree, {}).keys[0].name == "web"
    for section, table in TABLES.items():
        missing = [key for key in table.model_fields if not re.search(rf"^(# )?{key} = |\.{key}\]", text, re.MULTILINE)]
        assert (section, missing) in [(section, []), ("mcp", ["header_env"])]


def test_all_errors_at_once() -> None:
    """Mistakes of every sort are named together, in the order of the sections, one line each."""
    tree = {
        "server": {"port": "8080", "prot": 1, "host": "0.0.0.0"},
        "streams": [],
        "upstreams": [{"name": "a", "base_url": "h"}, {"name": "a", "base_url": "http://h"}, 3],
        "models": [{"name": "m", "targets": ["a/x", "b/x", "a/x", "a"]}, {"targets": []}],
        "recovery": {"strategy": "odd"},
        "mcp": {"name": "a"},
        "strems": {},
    }
    assert problems_of(tree) == [
        'server.port: "8080" — expected a whole number from 0 to 65535 (a port; 0: any free one)',
        'server.prot: unknown key; did you mean "port"?',
        'server.host: "0.0.0.0" — expected a loopback address, or [[keys]] for all who can reach it',
        "streams: an array — expected a table",
        'upstreams[0].base_url: "h" — expected "http(s)://host[:port]/v1" without user, query or "/chat/completions"',
        "upstreams[2]: 3 — expected a table",
        'upstreams[1].name: "a" — expected another than that of upstreams[0]',
        'models[0].targets[3]: "a" — expected "upstream/model" or "upstream/*"',
        'models[1].name: missing; required: What clients ask for; "gpt-*" is a pattern, and the longest match wins.',
        "models[1].targets: an empty array — expected at least one item",
        'models[0].targets[1]: "b/x" — expected a configured upstream before the slash: a',
        'models[0].targets[2]: "a/x" — expected each target once',
        "mcp: a table — expected [[mcp]], an array of tables",
        'strems: unknown key; did you mean "streams"?',
    ]


def test_nothing_configured() -> None:
    """An empty file says what is needed at least, and an empty array is no better."""
    assert problems_of({}) == [
        "upstreams: missing; required: At least one [[upstreams]].",
        "models: missing; required: At least one [[models]].",
    ]
    assert problems_of({"upstreams": [], "models": []}) == [
        "upstreams: an empty array — expected at least one item",
        "models: an empty array — expected at least one item",
    ]


@pytest.mark.parametrize(
    ("tree", "line"),
    [
        ({"flow": {"heartbeat": 1}}, 'flow.heartbeat: unknown key; did you mean "heartbeat_interval"?'),
        ({"linger": 1}, "linger: unknown key; it belongs in [streams]"),
        ({"flow": {"requests_per_minute": 1}}, "flow.requests_per_minute: unknown key; it belongs in [[keys]]"),
        ({"server": {"PORT": 1}}, 'server.PORT: unknown key; did you mean "port"?'),
        (
            {"server": {"a\nb\u2028": 1}},
            'server."a\\nb\\u2028": unknown key; expected one of host, port, max_streams, ',
        ),
    ],
)
def test_unknown_key(tree: dict[str, Any], line: str) -> None:
    """An unknown key names the nearest one, or the table it belongs in, or all that there are, on one line."""
    (found,) = problems_of(SMALLEST | tree)
    assert found.startswith(line)


def test_unique() -> None:
    """Two upstreams, models, owners or tool servers of one name, and two owners of one token, are errors."""
    tree: dict[str, Any] = {section: tuple(tables * 2) for section, tables in SMALLEST.items()} | {"keys": [KEY, KEY]}
    tree["mcp"] = [{"name": "a", "command": ["a"]}] * 2
    assert [line.split(":")[0] for line in problems_of(tree)] == [
        "upstreams[1].name",
        "models[1].name",
        "keys[1].name",
        "keys[1].sha256",
        "mcp[1].name",
    ]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.1", "gateway.example", "localhost.example"])
def test_open_host_needs_keys(host: str) -> None:
    """An address that others can reach is refused without keys and taken with them."""
    tree = SMALLEST | {"server": {"host": host}}
    assert [line.split(":")[0] for line in problems_of(tree)] == ["server.host"]
    assert problems_of(tree | {"keys": [KEY]}) == []
    assert not parse(tree | {"keys": [KEY]}, {}).server.loopback
    assert not is_loopback(host)


def test_any_origin_needs_keys() -> None:
    """Without keys no wildcard lets every page in the world use the gateway."""
    tree = SMALLEST | {"server": {"cors_origins": ["*"]}}
    assert [line.split(":")[0] for line in problems_of(tree)] == ["server.cors_origins"]
    assert problems_of(tree | {"keys": [KEY]}) == []


def write(path: Path, text: str) -> Path:
    """Write a configuration that ends with what every file needs."""
    path.write_text(
        f'{text}\n[[upstreams]]\nname = "a"\nbase_url = "http://h"\n[[models]]\nname = "*"\ntargets = ["a/*"]'
    )
    return path


def test_command_line_wins(tmp_path: Path) -> None:
    """A host and a port from the command line win over the file and obey the same rules."""
    path = write(tmp_path / "c.toml", "[server]\nport = 1")
    server = load(path, {}, host="::1", port=0).server
    assert (server.host, server.port) == ("::1", 0)
    with pytest.raises(ConfigError, match=r"^server\.host: .*\[\[keys\]\]"):
        load(path, {}, host="0.0.0.0")
    assert load(write(path, ""), {}, port=9).server.port == 9


def test_registered_names(tmp_path: Path) -> None:
    """Strategies and stores that nobody has registered are errors where the registered ones are given."""
    path = write(tmp_path / "c.toml", 'recovery.strategy = "mine"\nstore.kind = "disk"')
    assert load(path, {}).recovery.strategy == "mine"
    assert [
        str(problem) for problem in check(path, {}, known_strategies=["none", "auto"], known_stores=["memory"])
    ] == [
        'store.kind: "disk" — expected a registered name: memory',
        'recovery.strategy: "mine" — expected a registered name: auto, none',
    ]
    with pytest.raises(ConfigError):
        load(path, {}, known_stores=["memory"])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a = \n", "not TOML: Invalid value (at line 1, column 5)"),
        (b"[server]\nport = 1\nport = 2\n", "not TOML: Cannot overwrite a value (at line 3, column 9)"),
        (b"a = " + b"[" * 5000, "not TOML: nested too deeply"),
        (b"a = " + b"1" * 5000, "not TOML: Exceeds the limit (4300 digits)"),
        (b'a = "\xff"', "not UTF-8: byte 6"),
    ],
)
def test_unreadable_content(tmp_path: Path, content: bytes, line: str) -> None:
    """What is not TOML is one line with the file and the place."""
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    (problem,) = check(path, {})
    assert str(problem).startswith(f"{path}: {line}")
    with pytest.raises(ConfigError, match=re.escape(line)):
        load(path, {})


def test_unreadable_file(tmp_path: Path) -> None:
    """A missing file and a directory are one line each."""
    assert [str(problem) for problem in check(tmp_path, {})] == [f"{tmp_path}: cannot be read: Is a directory"]
    missing = tmp_path / "none.toml"
    assert [str(problem) for problem in check(missing, {})] == [f"{missing}: cannot be read: No such file or directory"]


def test_byte_order_mark(tmp_path: Path) -> None:
    """A file as some editors write it, with a byte order mark, is read."""
    path = write(tmp_path / "c.toml", "")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert check(path, {}) == []


def test_secret_from_the_environment(tmp_path: Path) -> None:
    """A key comes from the named variable; an unset one is a warning and no key, an impossible one an error."""
    path = write(tmp_path / "c.toml", "")
    path.write_text(
        path.read_text().replace("[[models]]", 'api_key_env = "A_KEY"\norganization_env = "ORG"\n[[models]]')
    )
    environ = {"A_KEY": "sk-1", "ORG": "o"}
    assert check(path, environ) == []
    upstream = load(path, environ).upstream("a")
    assert (upstream.api_key(environ), upstream.organization(environ)) == ("sk-1", "o")
    for unset in ({"ORG": "o"}, {"ORG": "o", "A_KEY": ""}):
        assert load(path, unset).upstream("a").api_key(unset) is None
        (problem,) = check(path, unset)
        assert problem.warning
        words = "this variable is not set: requests go without it"
        assert str(problem) == f'warning: upstreams[0].api_key_env: "A_KEY" — {words}'
    (problem,) = check(path, {"ORG": "o", "A_KEY": "sk-1\n"})
    assert not problem.warning
    assert "sk-1" not in str(problem)


def test_header_from_the_environment() -> None:
    """A header's value comes from the named variable; an unset one is no header, an impossible one an error."""
    tree = copy.deepcopy(SMALLEST)
    tree["upstreams"][0]["header_env"] = {"X-A": "A", "X-B": "B"}
    [upstream] = parse(tree, {}).upstreams
    assert upstream.secret_headers({}) == {}
    assert upstream.secret_headers({"A": "Basic dXNlcg==", "B": ""}) == {"X-A": "Basic dXNlcg=="}
    for value in ("hunter2hunter2\n", "hunter2\r\nX: y", " hunter2", "hunter2 ", "hunter2é"):
        (line,) = problems_of(tree, A=value)
        assert line.startswith("upstreams[0].header_env.X-A: (hidden, 1 characters) — expected a variable with ")
        assert "hunter2" not in line


@pytest.mark.parametrize(
    ("upstream", "line"),
    [
        ({"headers": {"X-A": "a"}, "header_env": {"x-a": "A"}}, "header_env.x-a: expected another header than one of"),
        ({"headers": {"X-A": "a", "x-a": "b"}}, "headers.x-a: expected another header than one of headers"),
        ({"auth": "api-key", "api_key_env": "A", "headers": {"Api-Key": "a"}}, "headers.Api-Key: expected another"),
        ({"auth": "x-api-key", "api_key_env": "A", "header_env": {"X-API-Key": "A"}}, "header_env.X-API-Key: expected"),
        ({"auth": "api-key", "headers": {"Api-Key": "a"}}, None),
        ({"api_key_env": "A", "headers": {"api-key": "a"}}, None),
    ],
)
def test_one_source_for_each_header(upstream: dict[str, Any], line: str | None) -> None:
    """A header that two keys would set is an error, whatever its case: one of them would be lost without a word."""
    tree = copy.deepcopy(SMALLEST)
    tree["upstreams"][0] |= upstream
    lines = problems_of(tree, A="a")
    assert len(lines) == (line is not None)
    assert line is None or lines[0].startswith(f"upstreams[0].{line}")


def test_the_address_of_redis_from_the_environment() -> None:
    """With Redis the named variable holds the address. An unset or wrong one is an error that does not show it."""
    tree = SMALLEST | {"store": {"kind": "redis", "url_env": "REDIS_URL"}}
    url = "redis://:hunter2@h:1/0?password=hunter2"
    assert parse(tree, {"REDIS_URL": url}).store.resolved({"REDIS_URL": url}).url == url
    assert "hunter2" not in repr(parse(tree, {"REDIS_URL": url}))
    for environ in ({}, {"REDIS_URL": ""}, {"REDIS_URL": "http://:hunter2@h"}, {"REDIS_URL": f"{url}\n"}):
        (line,) = problems_of(tree, **environ)
        assert line == 'store.url_env: "REDIS_URL" — expected a variable that holds the address of Redis'
    assert problems_of(SMALLEST | {"store": {"url_env": "REDIS_URL"}}) == []
    (hint,) = problems_of(SMALLEST | {"store": {"password": "hunter2"}})
    assert hint == 'store.password: unknown key; did you mean "url_env", the name of an environment variable?'


def test_ca_file(tmp_path: Path) -> None:
    """A file of certificates is opened when the configuration is checked, not at the first request."""
    pem = tmp_path / "ca.pem"
    pem.write_text("not a certificate")
    tree = copy.deepcopy(SMALLEST)
    tree["upstreams"][0]["ca_file"] = str(pem)
    assert [line.split(":")[0] for line in problems_of(tree)] == ["upstreams[0].ca_file"]
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    if certificates:  # a machine without any has nothing to show the good case with
        pem.write_text(ssl.DER_cert_to_PEM_cert(certificates[0]))
        assert problems_of(tree) == []


@pytest.mark.parametrize(
    ("section", "key", "secret"),
    [
        ("upstreams", "api_key", "sk-proj-aaaabbbbcccc"),
        ("upstreams", "api_key_env", "sk-proj-aaaabbbbcccc"),
        ("upstreams", "base_url", "http://user:hunter2hunter2@h"),
        ("upstreams", "base_url", "http://h?key=hunter2hunter2"),
        ("upstreams", "proxy", "socks5://user:hunter2hunter2@h"),
        ("upstreams", "headers", {"X-Key": "hunter2hunter2\n"}),
        ("upstreams", "query", {"key": "hunter2hunter2\n"}),
        ("upstreams", "header_env", {"X-Key": "hunter2-hunter2"}),
        ("upstreams", "header_env", {"X-Key": "sk-hunter2hunter2"}),
        ("upstreams", "auth", "hunter2hunter2"),
        ("upstreams", "token", "hunter2hunter2"),
        ("keys", "sha256", "hunter2hunter2"),
        ("keys", "token", "hunter2hunter2"),
        ("upstreams", "continuation", "0123456789abcdef0123456789abcdef"),
    ],
)
def test_secrets_are_not_shown(section: str, key: str, secret: object) -> None:
    """A secret in the wrong place is an error that does not repeat it."""
    tree = copy.deepcopy(SMALLEST) | {"keys": [dict(KEY)]}
    tree[section][0][key] = secret
    (line,) = problems_of(tree)
    assert line.startswith(f"{section}[0].{key}")
    assert not re.search("hunter2|aaaabbbb|456789abc", line)


def test_a_lower_case_variable_is_not_shown(tmp_path: Path) -> None:
    """A key in place of its variable's name may look like a name; the warning that it is unset does not repeat it."""
    path = write(tmp_path / "c.toml", "")
    path.write_text(path.read_text().replace("[[models]]", 'api_key_env = "hf_abcdefgh"\n[[models]]'))
    lines = [str(problem) for problem in check(path, {})]
    assert lines == [
        "warning: upstreams[0].api_key_env: (hidden, 11 characters) — this variable is not set: requests go without it"
    ]


def test_resolve_and_targets() -> None:
    """A model is found by its exact name, else by the wildcard; its targets are upstream and model in their order."""
    tree = SMALLEST | {"models": [{"name": "small", "targets": ["local/org/a", "local/*"]}]}
    settings = parse(tree, {})
    small = settings.resolve("small")
    assert small is not None
    assert small.targets == (Target("local", "org/a"), Target("local", None))
    assert [str(target) for target in small.targets] == ["local/org/a", "local/*"]
    assert settings.resolve("other") is None
    tree["models"].append({"name": "*", "targets": ["local/*"]})
    settings = parse(tree, {})
    assert settings.resolve("small") == small
    assert settings.resolve("other") == settings.models[1]


PATTERNS = ["*", "gpt-*", "gpt-4*", "*-mini", "gpt-4o", "org/*:free", "a*b*c"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gpt-4o", "gpt-4o"),  # its own name wins over all patterns
        ("gpt-4o-mini", "gpt-4*"),  # the longest pattern; of two that are equally long, the first
        ("gpt-3.5", "gpt-*"),
        ("gpt-", "gpt-*"),
        ("gpt", "*"),
        ("my-gpt-4", "*"),
        ("GPT-4o", "*"),
        ("phi-mini", "*-mini"),
        ("org/llama:free", "org/*:free"),
        ("org/llama:paid", "*"),
        ("a-b-b-c", "a*b*c"),
        ("ac", "*"),
        ("gpt-\n", "gpt-*"),
        ("", "*"),
    ],
)
def test_the_longest_match_wins(name: str, wanted: str) -> None:
    """A name is answered by the model of that name, else by the pattern that gives the most of it, in any order."""
    for names in (PATTERNS, PATTERNS[::-1]):
        models = [{"name": pattern, "targets": ["local/*"]} for pattern in names]
        model = parse(SMALLEST | {"models": models}, {}).resolve(name)
        assert model is not None
        assert model.name == wanted or len(model.name) == len(wanted)
    without = [{"name": pattern, "targets": ["local/*"]} for pattern in PATTERNS if pattern != "*"]
    resolved = parse(SMALLEST | {"models": without}, {}).resolve(name)
    assert (resolved is None) == (wanted == "*")


def test_a_pattern_takes_time_in_proportion() -> None:
    """A long name that a client makes up does not keep a pattern with many stars busy."""
    models = [{"name": "*a*a*a*a*a*a*a*a*b", "targets": ["local/*"]}]
    assert parse(SMALLEST | {"models": models}, {}).resolve("a" * 100_000) is None


@pytest.mark.parametrize("name", ["gpt-4?", "gpt-[45]", "^gpt-4", "gpt-(4|5)", "gpt-4$"])
def test_a_name_that_looks_like_a_pattern(tmp_path: Path, name: str) -> None:
    """A name with the marks of another pattern language is taken as it stands, and `check` says so."""
    path = write(tmp_path / "c.toml", "")
    path.write_text(path.read_text().replace('name = "*"', f"name = {name!r}"))
    (line,) = [str(problem) for problem in check(path, {})]
    assert line.startswith("warning: models[0].name: ")
    assert line.endswith('this is a name and no pattern: only "*" stands for other characters')
    assert load(path, {}).models[0].name == name


def test_frozen_and_round() -> None:
    """Settings cannot be changed, and what they dump is again a configuration."""
    settings = parse(SMALLEST, {})
    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]
    assert Settings.model_validate(settings.model_dump()) == settings
    assert Settings.model_json_schema()["properties"]


def test_preprocess_names() -> None:
    """Every key of [preprocess] but timeout is a function's name, in the order of the file."""
    table = parse(SMALLEST | {"preprocess": {"b": "m:b", "timeout": 2, "a": "m:a"}}, {}).preprocess
    assert table.timeout == 2.0
    assert list(table.functions.items()) == [("b", "m:b"), ("a", "m:a")]


INNER = sorted({key for table in TABLES.values() for key in table.model_fields})
scalars = (
    st.text(max_size=20)
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.dates().map(lambda day: date(day.year, day.month, day.day))
    | st.datetimes().map(lambda moment: datetime(moment.year, 1, 1))  # noqa: DTZ001
    | st.sampled_from(["local", "local/*", "http://h/v1", "*", "a:b", HASH, "PATH", "0.0.0.0"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
tables = st.dictionaries(st.sampled_from(INNER) | st.text(max_size=9), values, max_size=5)
trees = st.dictionaries(
    st.sampled_from(list(TABLES)) | st.text(max_size=9),
    tables | st.lists(tables | values, max_size=3) | values,
    max_size=6,
)


@given(tree=trees, complete=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_tree(tree: dict[str, Any], *, complete: bool) -> None:
    """Whatever a file holds, it becomes settings or an error of whole lines, never a traceback."""
    lines = problems_of((tree | SMALLEST) if complete else tree)
    assert all(line.isprintable() and re.match(r".+: ", line) for line in lines)


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
@settings(max_examples=200, deadline=None)
def test_any_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever bytes a file has, checking it returns whole lines, and never nothing."""
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    problems = check(path, {})
    assert problems
    assert all(str(problem).isprintable() for problem in problems)
