"""Which test files need no other program: no server, browser, Node or model. `pytest --fast` runs these alone."""

import ast
import sys
from functools import cache
from pathlib import Path
from typing import Any

SUPPORT = Path(__file__).parent
# By these names a file starts something itself, or has a fixture or a module of scripts/ that does.
STARTERS = frozenset(
    {
        *("module subprocess", "module multiprocessing", "create_subprocess_exec"),
        *("TestServer", "LocalModel", "module lab.places", "module lab.provider", "module fault_test.kills"),
        "module generate_clients",
    }
)
FIXTURES = frozenset({"fixture provider", "fixture gateway", "fixture redis", "fixture installed"})
GATEWAYS = frozenset({"InProcess", "OwnProcess", "in_process", "own_process"})  # of gateway.py, which has more
HARMLESS_PROGRAMS = frozenset({"openssl", "uname"})  # for certificates, and by the module platform
HARMLESS = frozenset({"fast", "gateway", "internals", "certificates"})  # these name a starter only, or start openssl


def needs_nothing(path: Path) -> bool:
    """Whether no name in a test file is one that starts something."""
    return not _names(path) & (_starters() | FIXTURES)


def forbid_programs() -> None:
    """Let every start of a program in this process fail, but that of a HARMLESS_PROGRAM."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and Path(str(arguments[0])).name not in HARMLESS_PROGRAMS:
            raise RuntimeError(f"a test of --fast starts {arguments[1]}")

    sys.addaudithook(hook)


@cache
def _starters() -> frozenset[str]:
    """Give STARTERS, GATEWAYS, and the modules of tests/support that use one of them, or one another."""
    support = {path.stem: _names(path) for path in SUPPORT.glob("*.py") if path.stem not in HARMLESS}
    found = STARTERS | GATEWAYS
    while more := {f"module {name}" for name, used in support.items() if used & found} - found:
        found |= more
    return found


@cache
def _names(path: Path) -> frozenset[str]:
    """Give the modules that a file imports, every name in it, and the arguments of its functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import():
                found |= {f"module {alias.name}" for alias in node.names}
            case ast.ImportFrom(module=str(module)):
                found |= {f"module {module}", *(alias.name for alias in node.names)}
            case ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.FunctionDef(args=given) | ast.AsyncFunctionDef(args=given):
                found |= {f"fixture {argument.arg}" for argument in given.args}
    return frozenset(found)
