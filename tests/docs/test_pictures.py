"""The pictures of the README are whole, load nothing, and show what they say."""

import xml.etree.ElementTree as ET

import pytest
import record_terminal
from gateway import ROOT

PICTURES = sorted((ROOT / "docs" / "pictures").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def texts(root: ET.Element) -> list[str]:
    """The texts of a picture, from top to bottom and from left to right."""
    elements = sorted(root.iter(f"{SVG}text"), key=lambda one: (float(one.get("y", 0)), float(one.get("x", 0))))
    return [one.text or "" for one in elements]


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_is_whole_and_alone(path) -> None:
    """It is XML with a title for those who do not see it, and names no other place."""
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.find(f"{SVG}title") is not None
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert not [one for one in root.iter() if one.tag.removeprefix(SVG) in {"script", "image", "foreignObject", "a"}]


def test_the_drawing_has_both_themes() -> None:
    """Its colours follow the reader's theme."""
    text = (ROOT / "docs/pictures/log.svg").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text


def test_the_recorded_answer_is_the_whole_one() -> None:
    """In the terminal every word of the answer stands once, around the kill and the note of the client."""
    root = ET.fromstring((ROOT / "docs/pictures/terminal.svg").read_text(encoding="utf-8"))
    answer = [one for one in root.iter(f"{SVG}text") if " " not in (one.get("class") or "")]  # neither typed nor a note
    words = [one.text or "" for one in sorted(answer, key=lambda one: (float(one.get("y", 0)), float(one.get("x", 0))))]
    assert " ".join("".join(words).split()) == record_terminal.TEXT
    shown = " ".join("".join(texts(root)).split())
    for part in ("kill -9", "connection lost after event", "resuming"):
        assert part in shown
