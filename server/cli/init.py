"""`sluiceway init`: write a configuration to begin with."""

import sys
from pathlib import Path

FAILED = 1
TEMPLATE = Path(__file__).parent / "starting.toml"


def init(file: Path) -> int:
    """Write the template to a new file; return the exit status. A file that exists is left as it is."""
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(TEMPLATE.read_text(encoding="utf-8"))
    except FileExistsError:
        print(f"sluiceway: {file} exists, and is left as it is.", file=sys.stderr)  # noqa: T201 — the command's output
        return FAILED
    except OSError as error:
        print(f"sluiceway: {file} cannot be written: {error.strerror}.", file=sys.stderr)  # noqa: T201
        return FAILED
    flag = "" if file == Path("sluiceway.toml") else f" --config {file}"
    print(f"{file} is written. Edit it, then: sluiceway check{flag} && sluiceway serve{flag}")  # noqa: T201
    return 0
