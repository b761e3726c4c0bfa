"""Every task of the gateway has an owner: something that keeps it, awaits it or is a group.

asyncio keeps only a weak reference to a task. Without an owner it may vanish half-way, its exception is lost, and
nobody cancels it at shutdown.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKERS = {"create_task", "ensure_future"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def is_maker(node: ast.AST) -> bool:
    """Whether a node is a call that makes a task, in whatever way the function is named."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in MAKERS


def groups(function: ast.AST) -> set[str]:
    """Give the names of the task groups that a function enters."""
    items = [item for node in ast.walk(function) if isinstance(node, ast.AsyncWith) for item in node.items]
    return {
        item.optional_vars.id
        for item in items
        if isinstance(item.optional_vars, ast.Name) and "TaskGroup" in ast.unparse(item.context_expr)
    }


def is_used(name: str, function: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a function does more with a task than to watch or cancel it: it awaits it, or hands it to an owner."""
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            parent = parents[node]
            if not isinstance(parent, ast.Attribute) or parent.attr not in ("add_done_callback", "cancel"):
                return True
    return False


def is_owned(call: ast.Call, function: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether the task that a call makes has an owner."""
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in groups(function):
        return True
    parent = parents[call]
    if isinstance(parent, ast.Expr | ast.Attribute):  # thrown away, or asked for one thing and then thrown away
        return False
    if isinstance(parent, ast.Assign | ast.AnnAssign | ast.NamedExpr):
        targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        return len(names) < len(targets) or any(is_used(name, function, parents) for name in names)
    return True  # awaited, returned, put into a collection or passed to a call


def ownerless(source: str) -> list[int]:
    """Give the lines of a module that make a task without an owner."""
    tree = ast.parse(source)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    lines = []
    for call in filter(is_maker, ast.walk(tree)):
        function = parents[call]
        while function in parents and not isinstance(function, FUNCTIONS):
            function = parents[function]
        if not is_owned(call, function, parents):
            lines.append(call.lineno)
    return sorted(lines)


def test_every_task_has_an_owner() -> None:
    """No module of the gateway makes a task that nothing keeps, awaits or groups."""
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted(ROOT.glob("server/**/*.py"))
        if (lines := ownerless(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "body",
    [
        "asyncio.create_task(f())",
        "asyncio.ensure_future(f())",
        "asyncio.get_running_loop().create_task(f())",
        "create_task(f())",
        "asyncio.create_task(f()).add_done_callback(g)",
        "_ = asyncio.create_task(f())",
        "task = asyncio.create_task(f())",
        "task = asyncio.create_task(f())\n    task.add_done_callback(g)",
        "task: asyncio.Task[None] = asyncio.create_task(f())\n    task.cancel()",
    ],
)
def test_a_task_without_an_owner_is_noticed(body: str) -> None:
    """A task whose result is thrown away, or only watched or cancelled, has no owner."""
    assert ownerless(f"async def run():\n    {body}\n") == [2]


@pytest.mark.parametrize(
    "body",
    [
        "self.task = asyncio.create_task(f())",
        "tasks[name] = asyncio.create_task(f())",
        "await asyncio.create_task(f())",
        "return asyncio.create_task(f())",
        "tasks.append(asyncio.create_task(f()))",
        "tasks = [asyncio.create_task(f()) for f in many]\n    await asyncio.wait(tasks)",
        "task = asyncio.create_task(f())\n    tasks.add(task)\n    task.add_done_callback(tasks.discard)",
        "task = asyncio.create_task(f())\n    await task",
        "async with asyncio.TaskGroup() as group:\n        group.create_task(f())",
    ],
)
def test_an_owner_is_noticed(body: str) -> None:
    """A task that is kept, awaited, handed on or made by a group has one."""
    assert ownerless(f"async def run():\n    {body}\n") == []
