"""Content blocks of a Messages request as parts of a chat completion request.

Sources: https://platform.claude.com/docs/en/api/messages, https://platform.openai.com/docs/api-reference/chat/create.
"""

from typing import Any

from server.dialects.messages.fields import Object, Unsaid, blocks, invalid, mapping, text

Part = dict[str, Any]


def parts(content: object, place: str, unsaid: Unsaid) -> list[Part]:
    """Return the parts of a user's content: texts, images, files. Raises Rejected 400."""
    return [part for where, block in blocks(content, place) for part in block_parts(block, where, unsaid)]


def block_parts(block: Object, place: str, unsaid: Unsaid) -> list[Part]:
    """Return the parts of one block. Raises Rejected 400."""
    match block["type"]:
        case "text":
            return [text_part(text(block.get("text"), f"{place}.text"))]
        case "image":
            return _image(mapping(block.get("source"), f"{place}.source"), f"{place}.source", unsaid)
        case "document":
            return _document(block, place, unsaid)
        case "search_result":
            head = f"{text(block.get('title'), f'{place}.title')}\n{text(block.get('source'), f'{place}.source')}"
            return [text_part(head), *parts(block.get("content"), f"{place}.content", unsaid)]
        case "tool_reference":  # a result of a client's own tool search
            return [text_part(text(block.get("tool_name"), f"{place}.tool_name"))]
        case kind:
            unsaid(f"{place}.type", f"A block of the type {kind!r}")
            return []


def text_part(words: str) -> Part:
    """Return the part that holds a text."""
    return {"type": "text", "text": words}


def joined(found: list[Part]) -> str | list[Part]:
    """Return parts as content: one text if they are nothing else. Not every upstream takes an array."""
    if all(part["type"] == "text" for part in found):
        return "\n\n".join(part["text"] for part in found)
    return found


def _image(source: Object, place: str, unsaid: Unsaid) -> list[Part]:
    match source.get("type"):
        case "base64":
            url = _data_url(source, place)
        case "url":
            url = text(source.get("url"), f"{place}.url")
        case kind:
            unsaid(f"{place}.type", f"An image of the type {text(kind, f'{place}.type')!r}")
            return []
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Object, place: str, unsaid: Unsaid) -> list[Part]:
    """Return a document: a PDF as a file, others as their texts, with title and context before them."""
    source, where = mapping(block.get("source"), f"{place}.source"), f"{place}.source"
    heads = [block[name] for name in ("title", "context") if block.get(name)]
    head = [text_part(text(words, place)) for words in heads]
    match source.get("type"):
        case "base64":
            name = block["title"] if isinstance(block.get("title"), str) and block["title"] else "document.pdf"
            return [*head, {"type": "file", "file": {"filename": name, "file_data": _data_url(source, where)}}]
        case "text":
            return [*head, text_part(text(source.get("data"), f"{where}.data"))]
        case "content":
            return [*head, *parts(source.get("content"), f"{where}.content", unsaid)]
        case kind:
            unsaid(f"{where}.type", f"A document of the type {text(kind, f'{where}.type')!r}")
            return []


def _data_url(source: Object, place: str) -> str:
    media_type = text(source.get("media_type"), f"{place}.media_type")
    if not media_type.isprintable() or "," in media_type:
        raise invalid(f"{place}.media_type", "Input should be a media type")
    return f"data:{media_type};base64,{text(source.get('data'), f'{place}.data')}"
