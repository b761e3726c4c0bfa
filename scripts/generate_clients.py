"""Writes the clients that follow from `sluiceway/httpx2/aio.py`: its sync twin, and both for httpx.

python scripts/generate_clients.py           writes them
python scripts/generate_clients.py --check   names those that differ from what would be written; exit status 1
"""

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sluiceway"
SOURCE = PACKAGE / "httpx2" / "aio.py"
NOTE = "# Written by scripts/generate_clients.py from sluiceway/httpx2/aio.py. Change that file.\n\n"
# Words of async code, and what stands for them in sync code.
TO_SYNC = (
    (r"An async client", "A sync client"),
    (r"\basync ", ""),
    (r"\bawait ", ""),
    (r"\bAsyncIterator\b", "Iterator"),
    (r"\b__aiter__\b", "__iter__"),
    (r"\bAsyncByteStream\b", "SyncByteStream"),
    (r"\b(_?)Async(\w+)", r"\1\2"),  # AsyncClient, AsyncOpenAI, _AsyncBody, …
    (r"\basync_(\w+)", r"\1"),
    (r"\bhandle_async_request\b", "handle_request"),
    (r"\ba(read|close)\b", r"\1"),
    (r"\bresuming_http_client\b", "resuming_sync_http_client"),
)


def sync(code: str) -> str:
    """Return the sync twin of async code."""
    for pattern, replacement in TO_SYNC:
        code = re.sub(pattern, replacement, code)
    return code


def for_httpx(code: str) -> str:
    """Return code for httpx that does the same as code for httpx2."""
    return code.replace("httpx2", "httpx")


def tidy(code: str) -> str:
    """Return code with its imports sorted and its lines broken as everywhere here: shorter words change both."""
    for command in (("check", "--select=I", "--fix", "--quiet"), ("format", "--quiet")):
        ruff = [str(Path(sys.executable).parent / "ruff"), *command, "-"]
        code = subprocess.run(ruff, input=code, capture_output=True, text=True, check=True).stdout
    return code


def twins() -> dict[Path, str]:
    """Return the generated files and their text."""
    source = SOURCE.read_text(encoding="utf-8")
    return {
        PACKAGE / "httpx2" / "sync.py": NOTE + tidy(sync(source)),
        PACKAGE / "httpx" / "aio.py": NOTE + tidy(for_httpx(source)),
        PACKAGE / "httpx" / "sync.py": NOTE + tidy(for_httpx(sync(source))),
    }


def main(*, check: bool) -> int:
    """Write the files, or compare them. Return the exit status."""
    different = {path: text for path, text in twins().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in different.items():
        if check:
            print(f"{path.relative_to(PACKAGE.parent)} is not what scripts/generate_clients.py writes")
        else:
            path.write_text(text, encoding="utf-8")
    return int(check and bool(different))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv[1:]))
