"""Makes a gateway's configuration of a template: a client's key is generated, and its hash takes its place.

    python deploy/configure.py TEMPLATE FOLDER

The key is printed once, when it is made. FOLDER keeps only its hash, in client-key.sha256, and the configuration,
sluiceway.toml. Run it again after a change of the template: the key stays. To get another key, delete the hash.
It needs nothing but Python, so that it also runs in the image of the gateway.
"""

import hashlib
import secrets
import sys
from pathlib import Path

PLACE = "GENERATED"  # what the template has instead of the hash


def configure(template: Path, folder: Path) -> str | None:
    """Write the configuration into the folder. Return the key if it is new."""
    text = template.read_text(encoding="utf-8")
    if text.count(PLACE) != 1:
        raise SystemExit(f"error: {template} must have {PLACE} once, as the sha256 of a [[keys]]")
    folder.mkdir(parents=True, exist_ok=True)
    file, key = folder / "client-key.sha256", None
    if not file.exists():
        key = secrets.token_urlsafe(32)
        file.write_text(hashlib.sha256(key.encode()).hexdigest(), encoding="ascii")
    (folder / "sluiceway.toml").write_text(text.replace(PLACE, file.read_text("ascii")), encoding="utf-8")
    return key


if __name__ == "__main__":
    new = configure(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"The client's key (it is not shown again): {new}" if new else "The client's key is the one of before.")
