"""How each kind of upstream is asked to continue, and which seam joins its answer."""

from typing import Any

import pytest

from server.core.recovery.continuation import QUOTED, changes

ASKED = [{"role": "user", "content": "Tell me"}]
ECHOED = "It was a dark night, and the wind blew."
FORMS = ["assistant", "continue_final_message", "prefix", "partial", "user_turn"]


def prefilled(text: str, **mark: Any) -> list[dict[str, Any]]:
    return [*ASKED, {"role": "assistant", "content": text, **mark}]


def joined(form: str, text: str, comes: str) -> str:
    """The text of a reader who has `text` when the upstream of this form says `comes`."""
    _, seam = changes(form, {"messages": ASKED}, text, 1)
    out = seam.join({"choices": [{"index": 0, "delta": {"content": comes}, "finish_reason": "stop"}]})
    return text + "".join(choice["delta"]["content"] for chunk in out for choice in chunk["choices"])


@pytest.mark.parametrize(
    ("form", "wanted"),
    [
        ("assistant", {"messages": prefilled("Once upon")}),
        (
            "continue_final_message",
            {
                "messages": prefilled("Once upon"),
                "continue_final_message": True,
                "add_generation_prompt": False,
                "echo": False,
            },
        ),
        ("prefix", {"messages": prefilled("Once upon", prefix=True)}),
        ("partial", {"messages": prefilled("Once upon", partial=True)}),
    ],
)
@pytest.mark.parametrize("space", ["", " ", " \n\n"])
def test_prefill(form: str, wanted: dict[str, Any], space: str) -> None:
    """The text goes last, as an assistant's, marked as the upstream wants it, without the white space at its end."""
    changed, _ = changes(form, {"messages": ASKED}, "Once upon" + space, 2)
    assert changed == wanted


def test_user_turn() -> None:
    """An upstream without prefill gets a user message that quotes the end. The message before it has the text."""
    text = "x" * 2 * QUOTED + "the end is n"
    changed, _ = changes("user_turn", {"messages": ASKED}, text + " ", 2)
    *before, asked = changed["messages"]
    assert before == prefilled(text)
    assert asked["role"] == "user"
    assert asked["content"].endswith("\n" + text[-QUOTED:])
    assert "x" * QUOTED not in asked["content"]


@pytest.mark.parametrize("form", FORMS)
def test_the_seam(form: str) -> None:
    """White space that was left out is in the text once, in every form. Only known echoes are taken away."""
    assert joined(form, ECHOED + " ", " Then") == ECHOED + " Then"
    assert joined(form, ECHOED + " ", "Then") == ECHOED + " Then"
    assert joined(form, ECHOED, " Then") == ECHOED + " Then"
    echoes = form in ("prefix", "user_turn")
    assert joined(form, ECHOED, ECHOED + " Then") == ECHOED + ("" if echoes else ECHOED) + " Then"
    quotes = form == "user_turn"
    assert joined(form, ECHOED, ECHOED[-20:] + " Then") == ECHOED + ("" if quotes else ECHOED[-20:]) + " Then"


@pytest.mark.parametrize("form", FORMS)
def test_limits_shrink(form: str) -> None:
    """The delivered tokens reduce the request's own limits, to one at least. Other fields stay."""
    body = {"messages": ASKED, "max_tokens": 10, "max_completion_tokens": 3, "temperature": 0}
    changed, _ = changes(form, body, "Once upon", 4)
    assert (changed["max_tokens"], changed["max_completion_tokens"]) == (6, 1)
    assert "temperature" not in changed
    changed, _ = changes(form, {"messages": ASKED, "max_tokens": None}, "Once upon", 4)
    assert "max_tokens" not in changed


@pytest.mark.parametrize("form", FORMS)
def test_nothing_but_white_space(form: str) -> None:
    """If only white space was delivered, the first request is sent again: some upstreams refuse an empty prefill."""
    changed, _ = changes(form, {"messages": ASKED, "max_tokens": 10}, " \n", 1)
    assert changed == {"max_tokens": 9}
    assert joined(form, " \n", " \nOnce") == " \nOnce"


@pytest.mark.parametrize("form", FORMS)
def test_the_clients_own_prefill(form: str) -> None:
    """A request that ends with an assistant's message already is continued in that one message."""
    mine = {"role": "assistant", "content": "Well, ", "name": "me"}
    changed, _ = changes(form, {"messages": [*ASKED, mine]}, "once upon ", 2)
    told = changed["messages"]
    assert [one["role"] for one in told] == ["user", "assistant", *(["user"] if form == "user_turn" else [])]
    assert {**mine, "content": "Well, once upon"}.items() <= told[1].items()


def test_the_request_stays() -> None:
    """The client's request is not changed in place: the next attempt begins from it."""
    body = {"messages": [*ASKED, {"role": "assistant", "content": "Well"}], "max_tokens": 10}
    for form in FORMS:
        changes(form, body, "Once", 1)
    assert body == {"messages": [*ASKED, {"role": "assistant", "content": "Well"}], "max_tokens": 10}


def test_thinking_is_switched_off() -> None:
    """llama.cpp refuses a prefill while thinking is on: a request with template options says so."""
    body = {"messages": ASKED, "chat_template_kwargs": {"enable_thinking": True, "x": 1}}
    assert changes("assistant", body, "Once", 1)[0]["chat_template_kwargs"] == {"enable_thinking": False, "x": 1}
    assert "chat_template_kwargs" not in changes("assistant", {"messages": ASKED}, "Once", 1)[0]
    assert "chat_template_kwargs" not in changes("partial", body, "Once", 1)[0]
