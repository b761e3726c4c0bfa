"""What `server/` imports is what setup.cfg requires, and what a configuration does not name is not imported."""

import ast
import configparser
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import server

ROOT = Path(__file__).parents[1]
PRIVATE = ("aiohttp", "openai")  # libraries whose private parts are used
ROOMS = ("server/aio/aiohttp_internals/", "server/upstreams/sdk.py")  # where they are used
PRIVATE_MODULES = {"aiohttp.base_protocol", "aiohttp.client_proto", "aiohttp.http", "aiohttp.streams"}
LAZY = """
import asyncio, sys
from server.app import Gateway
from server.config.check import parse

async def main():
    tree = {"server": {"port": 0}, "upstreams": [{"name": "u", "base_url": "http://127.0.0.1:1/v1"}],
        "models": [{"name": "*", "targets": ["u/*"]}]}
    gateway = Gateway(parse(tree, {}), {})
    await gateway.start()
    await gateway.stop(0.0)

asyncio.run(main())
print(*sorted({"mcp", "redis", "opentelemetry.sdk"} & sys.modules.keys()))
"""


def test_the_client_is_required_in_this_very_version() -> None:
    """The gateway's commands are the client's, so both are released together."""
    assert str(requirements()["sluiceway-client"].specifier) == f"=={server.__version__}"


def requirements(*extras: str) -> dict[str, Requirement]:
    """Give the requirements of setup.cfg, and of these extras, by name."""
    options = configparser.ConfigParser()
    options.read(ROOT / "setup.cfg")
    lines = options["options"]["install_requires"].split("\n")
    for extra in extras:
        lines += options["options.extras_require"][extra].split("\n")
    parsed = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in parsed}


def trees() -> Iterator[tuple[str, ast.Module]]:
    """Give each file of `server/`, parsed."""
    for path in sorted((ROOT / "server").rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imports(tree: ast.Module) -> set[str]:
    """Give the modules that a file imports, at its top or when a function runs."""
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    return {*names, *modules}


def test_every_import_is_required() -> None:
    """No library comes only because another one requires it, and none is required for nothing."""
    distributions = packages_distributions()
    imported = {name.split(".")[0] for _, tree in trees() for name in imports(tree)}
    foreign = imported - set(sys.stdlib_module_names) - {"server"}
    needed = {canonicalize_name(distributions[name][0]) for name in foreign - {"opentelemetry", "sluiceway"}}
    needed.add("sluiceway-client")  # the clients, by the version that is beside this package
    assert needed == requirements().keys()
    assert "opentelemetry" in foreign
    assert "opentelemetry-sdk" in requirements("otel")


@pytest.mark.parametrize("name", PRIVATE)
def test_a_library_is_bounded_where_its_private_parts_are_used(name) -> None:
    """The bound is the minor version after the newest one that was tried."""
    [bound] = [one.version for one in requirements()[name].specifier if one.operator == "<"]
    assert len(Version(bound).release) == 2
    tried = Version(version(name))
    if tried in requirements()[name].specifier:  # not so in the environment of scripts/newest
        assert Version(bound).release == (tried.major, tried.minor + 1)


def test_private_parts_are_used_in_their_rooms() -> None:
    """Other files import no private module, and no file exempts an access to a private attribute but theirs."""
    for name, tree in trees():
        if name.startswith(ROOMS):
            continue
        modules = imports(tree)
        assert not modules & PRIVATE_MODULES, name
        assert not [one for one in modules if one.split(".")[0] != "server" and "._" in one], name
        assert "noqa: SLF001" not in (ROOT / name).read_text(), name


def private_names(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Give the private names that a file defines, and those that its methods read of their own object."""
    defined, read = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            (read if isinstance(node.ctx, ast.Load) else defined).add(node.attr)
    return defined, {name for name in read if name.startswith("_") and not name.startswith("__")}


def test_nothing_private_is_inherited_from_a_library() -> None:
    """A method reads no private attribute that only a foreign base class defines, but in the rooms for that."""
    names = {name: private_names(tree) for name, tree in trees()}
    defined = set().union(*(one for one, _ in names.values()))
    inherited = {name: read - defined for name, (_, read) in names.items() if read - defined}
    own_room = {
        "_reading_paused",
        "_buffer_paused",
        "_exception",
        "_pause_transport_reading",
        "_payload",
        "_resume_transport_reading",
    }
    assert inherited == {"server/aio/aiohttp_internals/upstream.py": own_room}


def test_what_is_not_configured_is_not_imported() -> None:
    """A gateway with the memory store and without tool servers starts and stops without redis and mcp."""
    done = subprocess.run([sys.executable, "-c", LAZY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
