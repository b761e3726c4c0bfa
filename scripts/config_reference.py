"""Print docs/configuration.md: every key of the configuration, from the settings themselves.

usage: .venv/bin/python scripts/config_reference.py > docs/configuration.md
"""

import json
from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from server.config.settings import Settings

HEAD = """# Configuration

TOML; unknown keys are errors, and `sluiceway check --config FILE` names every mistake at once. Times are in seconds,
sizes in bytes. Secrets never stand in the file: `api_key_env` names the environment variable that holds one.

This page is generated: `.venv/bin/python scripts/config_reference.py > docs/configuration.md`.
"""


def main() -> None:
    """Print the page."""
    print("\n".join(page()))


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    yield HEAD.rstrip("\n")
    for name, field in Settings.model_fields.items():
        table = _table(field)
        many = "tuple" in str(field.annotation)
        yield f"\n## `{'[[' if many else '['}{name}{']]' if many else ']'}`\n"
        yield f"{(table.__doc__ or '').split(':', 1)[-1].strip().splitlines()[0].capitalize()}\n"
        yield "| key | default | meaning |\n|---|---|---|"
        for key, each in table.model_fields.items():
            yield f"| `{key}` | {_default(each)} | {(each.description or '').replace('|', chr(92) + '|')} |"


def _table(field: FieldInfo) -> type[BaseModel]:
    kinds = [field.annotation, *get_args(field.annotation)]
    return next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "none"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    main()
