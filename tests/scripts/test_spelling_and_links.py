"""What `scripts/check` runs besides linters: the spell-check and the link check fail on bad input."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import check_links
import pytest
from gateway import ROOT

BIN = Path(sys.executable).parent
# The arguments of each check that the script runs.
CHECKS = [shlex.split(line) for line in re.findall(r"^check (.*)$", (ROOT / "scripts/check").read_text(), re.MULTILINE)]
[CHECKED] = [arguments[1:] for arguments in CHECKS if arguments[0] == "codespell"]  # files and folders
MISSPELT = "writen"  # codespell:ignore
GOOD = """# A page
## Twice
## Twice
[file](other.md), [heading](other.md#the-other-one), [here](#twice-1), [far](https://example.com/none), `docs/other.md`
`core/errors.py`, `docs/other.md --with arguments`, `application/json`, `/static/client.js`
```
[not a link](nowhere.md) and `docs/nowhere.md` in a block of code
```
"""


def spelling(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the spell-check as `scripts/check` does, in a folder with the project's settings."""
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for place in CHECKED:
        if not (folder / place).exists():
            (folder / place).mkdir()
    return subprocess.run([BIN / "codespell", *CHECKED], cwd=folder, check=False, capture_output=True, text=True)


def test_every_check_runs() -> None:
    """The script runs the linters, the types, the floors, the spelling, the links and the generator of clients."""
    assert [arguments[0] for arguments in CHECKS] == [
        "ruff", "ruff", "mypy", "lint-imports", "codespell", "python", "python",
    ]  # fmt: skip
    assert {"server", "docs", "README.md", "CHANGELOG.md", "scripts", "tests", "deploy", "examples"} <= {*CHECKED}
    assert [arguments[1:] for arguments in CHECKS[-2:]] == [
        ["scripts/check_links.py"], ["scripts/generate_clients.py", "--check"],
    ]  # fmt: skip


def test_a_wrong_word(tmp_path: Path) -> None:
    """A misspelt word fails in every place that is checked, and is named with its file and line."""
    assert spelling(tmp_path).returncode == 0
    files = []
    for place in CHECKED:
        path = tmp_path / place
        if (ROOT / place).is_file():
            path.rmdir()
        files.append(path if (ROOT / place).is_file() else path / "words.md")
        files[-1].write_text(f"The word is\n{MISSPELT} wrongly.\n")
    spelled = spelling(tmp_path)
    assert spelled.returncode != 0
    named = {line.removeprefix("./") for line in spelled.stdout.splitlines()}
    assert named == {f"{file.relative_to(tmp_path)}:2: {MISSPELT} ==> written" for file in files}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with two pages and nothing wrong."""
    for folder in ("docs", "server/core"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "server/core/errors.py").touch()
    (tmp_path / "docs/page.md").write_text(GOOD)
    (tmp_path / "docs/other.md").write_text("# The other one!\n")
    return tmp_path


def test_good_links(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Links to files, headings and other hosts, names of files, and code that only looks like either are accepted."""
    assert check_links.main(root) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("[gone](gone.md)", "no such target: gone.md"),
        ("![picture](gone.png)", "no such target: gone.png"),
        ("[reference]: gone.md", "no such target: gone.md"),
        ("[heading](other.md#gone)", "no such target: other.md#gone"),
        ("[heading](#gone)", "no such target: #gone"),
        ("[the third](#twice-2)", "no such target: #twice-2"),
        ("`docs/gone.md`", "no such file: docs/gone.md"),
        ("`./scripts/gone --with arguments`", "no such file: ./scripts/gone --with arguments"),
        ("`core/gone.py`", "no such file: core/gone.py"),
    ],
)
def test_bad_links(root: Path, capsys: pytest.CaptureFixture[str], line: str, problem: str) -> None:
    """A link to no file or heading, or the name of no file, fails with its place, also behind a block of code."""
    with (root / "docs/page.md").open("a") as page:
        page.write(f"{line}\n")
    assert check_links.main(root) == 1
    assert capsys.readouterr().out == f"docs/page.md:9: {problem}\n"


def test_the_changelog_may_name_what_is_gone(root: Path) -> None:
    """An old entry names files as they were then; its links must lead somewhere all the same."""
    (root / "CHANGELOG.md").write_text("`server/gone.py`\n")
    assert check_links.main(root) == 0
    (root / "CHANGELOG.md").write_text("[gone](server/gone.py)\n")
    assert check_links.main(root) == 1
