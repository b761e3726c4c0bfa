"""docs/troubleshooting.md has a row for every error code that can reach a user."""

import ast
import re
from collections.abc import Iterator

from gateway import ROOT

from server.core.errors import Kind

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
# Where each of them takes the code, counted from 0.
RAISED = {"Rejected": 2, "StreamError": 1, "error_body": 1}
ROW = re.compile(r"^\| ((?:`\w+`(?:, )?)+) \|", re.MULTILINE)


def words(node: ast.AST | None, values: dict[str, ast.expr]) -> Iterator[str]:
    """Give the codes that an argument may be: a text, the name of a variable, or one of two."""
    match node:
        case ast.Constant(value=str(text)) if re.fullmatch("[a-z_]+", text):
            yield text
        case ast.Name(id=name) if name in values:
            yield from words(values[name], values)
        case ast.IfExp(body=one, orelse=other):
            yield from words(one, values)
            yield from words(other, values)


def codes() -> dict[str, str]:
    """Give every code in the code of the gateway and of the clients, and a file that has it."""
    found = {kind.value: "server/core/errors.py" for kind in Kind}
    for path in [*(ROOT / "server").rglob("*.py"), *(ROOT / "sluiceway").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
        values = {one.id: node.value for node in assigned for one in node.targets if isinstance(one, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED:
                place = RAISED[node.func.id]
                named = next((one.value for one in node.keywords if one.arg == "code"), None)
                code = node.args[place] if len(node.args) > place else named
                found.update(dict.fromkeys(words(code, values), str(path.relative_to(ROOT))))
            if isinstance(node, ast.Dict):  # {"message": …, "code": …}
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "code":
                        found.update(dict.fromkeys(words(value, values), str(path.relative_to(ROOT))))
    return found


def listed() -> list[str]:
    """Give the codes of the page's table, in its order."""
    table = PAGE.partition("## By code")[2]
    return [code for row in ROW.findall(table) for code in re.findall(r"`(\w+)`", row)]


def test_every_code_has_a_row() -> None:
    """No code of the gateway is missing in the table."""
    missing = {code: file for code, file in codes().items() if code not in listed()}
    assert not missing


def test_no_row_is_left_over() -> None:
    """Each code of the table is one that there is, and has one row."""
    assert len(listed()) == len(set(listed()))
    assert set(listed()) <= codes().keys()


def test_the_search_finds_codes_of_every_form() -> None:
    """Constants, arguments by name, kinds and the clients' own code are found. A few stand for each."""
    assert {"draining", "invalid_cursor", "upstream_cut", "stream_lost", "internal_error", "gap"} <= codes().keys()
    assert len(codes()) > 50
