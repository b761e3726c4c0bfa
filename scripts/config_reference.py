"""Print docs/configuration.md: every key of the configuration, as server/config/settings.py describes it.

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

The file is TOML. Unknown keys are errors, and `sluiceway check --config FILE` names every mistake at once. Times are in
seconds, sizes in bytes. Do not write secrets into the file: `api_key_env` and `header_env` name environment variables.

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
        heading = f"[[{name}]]" if "tuple" in str(field.annotation) else f"[{name}]"
        yield f"\n## `{heading}`\n"
        sentence = (table.__doc__ or "").split(":", 1)[-1].strip().splitlines()[0]
        yield f"{sentence[0].upper()}{sentence[1:]}\n"
        yield "| key | default | meaning |\n|---|---|---|"
        for key, key_field in table.model_fields.items():
            description = (key_field.description or "").replace("|", r"\|")
            yield f"| `{key}` | {_default(key_field)} | {description} |"


def _table(field: FieldInfo) -> type[BaseModel]:
    types = [field.annotation, *get_args(field.annotation)]
    return next(type_ for type_ in types if isinstance(type_, type) and issubclass(type_, BaseModel))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "none"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return f"`{json.dumps(value)}`"


if __name__ == "__main__":
    main()
