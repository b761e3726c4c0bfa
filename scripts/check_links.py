#!/usr/bin/env python3
"""Check the links of all Markdown pages. usage: ./scripts/check_links.py [FOLDER].

Every relative link leads to a file, and to a heading of it if it names one. Every file that a page names in backticks
exists, as in `server/app.py`, or `core/errors.py` below `server/`. Links to other hosts are not followed.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/**/*.md", "deploy/**/*.md", "examples/**/*.md")
HISTORY = "CHANGELOG.md"  # it may name files that are gone
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
CODE = re.compile(r"`([^`\n]+)`")
FOLDER = re.compile(r"(?:\./)?(?:deploy|docs|examples|scripts|server|tests)/[\w./@-]*\w")
MODULE = re.compile(r"[\w./-]+/[\w-]+\.(?:py|js|lua)")


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings as GitHub makes them: the second of the same text ends with `-1`."""
    seen: Counter[str] = Counter()
    names = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def leads_somewhere(page: Path, link: str) -> bool:
    """Whether the target of a relative link exists."""
    path, _, anchor = unquote(link).partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or (target.suffix == ".md" and anchor in anchors(target)))


def is_there(root: Path, code: str) -> bool:
    """Whether a file or folder that is named in backticks exists. What names neither is taken as there."""
    place = code.split(" ", maxsplit=1)[0]  # a command may have arguments
    if FOLDER.fullmatch(place):
        return (root / place).exists()
    # A name that begins with a slash is a path of a URL, or of another machine.
    if MODULE.fullmatch(place) and not place.startswith("/"):
        return (root / place).exists() or (root / "server" / place).exists()
    return True


def problems(root: Path, page: Path) -> Iterator[str]:
    """Yield what is wrong with a page: its place, and the link or name."""
    # The lines stay, so that a place has its right number.
    text = FENCE.sub(lambda fence: "\n" * fence[0].count("\n"), page.read_text(encoding="utf-8"))
    found = [(match.start(), match[1] or match[2]) for match in LINK.finditer(text)]
    wrong = [(at, f"no such target: {link}") for at, link in found if not re.match(r"[a-z]+:", link)
             and not leads_somewhere(page, link)]  # fmt: skip
    if page.name != HISTORY:
        wrong += [(match.start(), f"no such file: {match[1]}") for match in CODE.finditer(text)
                  if not is_there(root, match[1])]  # fmt: skip
    for at, what in sorted(wrong):
        yield f"{page.relative_to(root)}:{text.count(chr(10), 0, at) + 1}: {what}"


def pages(root: Path) -> list[Path]:
    """Give the Markdown pages of the project."""
    return sorted({page for pattern in PAGES for page in root.glob(pattern)})


def main(root: Path = ROOT) -> int:
    """Print what is wrong; return the exit status."""
    wrong = [problem for page in pages(root) for problem in problems(root, page)]
    for problem in wrong:
        print(problem)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
