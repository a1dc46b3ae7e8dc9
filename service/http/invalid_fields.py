"""Validation errors → the fields at fault, named as in the request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError

MAX_FIELDS = 5
MAX_PART = 100  # characters of one name in a path
MAX_MESSAGE = 200
EXPECTED = "Input should be "
REWORDED = {  # pydantic's messages, which speak of Python, by type
    "dict_type": f"{EXPECTED}an object",
    "model_attributes_type": f"{EXPECTED}an object",
    "model_type": f"{EXPECTED}an object",
    "int_parsing_size": f"{EXPECTED}an integer of at most 64 bits",
}

Path = tuple[str | int, ...]


def invalid_fields(error: RequestValidationError) -> list[dict[str, str]]:
    """The first few {"field", "message"}. A field of the body is its path, such as groups.0.prompt; any other
    has its place before it: query.count. The input is not echoed: it may be large, or secret."""
    found: dict[Path, dict[str, str]] = {}  # of each path: messages by pydantic's type of error
    for each in error.errors():
        path = _path(each["loc"], error.body, missing=each["type"] == "missing")
        found.setdefault(path, {}).setdefault(each["type"], REWORDED.get(each["type"], each["msg"]))
    # an alternative of a union that the input is not meant for also reports the field itself
    fields = [path for path in found if not any(_is_within(other, path) for other in found)]
    return [{"field": _name(path), "message": _message(found[path])} for path in fields[:MAX_FIELDS]]


def _path(loc: Sequence[str | int], body: Any, *, missing: bool) -> Path:
    """The parts of `loc` that lead through the body, without the names of unions' alternatives."""
    if loc[0] != "body":
        return tuple(loc)
    path: list[str | int] = []
    here = body
    for place, part in enumerate(loc[1:], 2):
        if _contains(here, part):
            here = here[part]
            path.append(part)
        elif missing and place == len(loc):
            path.append(part)
    return tuple(path)


def _contains(here: Any, part: str | int) -> bool:
    if isinstance(here, list):
        return isinstance(part, int) and part < len(here)
    return isinstance(here, dict) and part in here


def _is_within(inner: Path, outer: Path) -> bool:
    return len(inner) > len(outer) > 0 and inner[: len(outer)] == outer


def _name(path: Path) -> str:
    return ".".join(_cut(str(part), MAX_PART) for part in path) or "body"


def _message(by_type: dict[str, str]) -> str:
    """One message for the alternatives of a union: a wrong type only counts if all of them report one."""
    chosen = {type_: text for type_, text in by_type.items() if not type_.endswith("_type")} or by_type
    first, *others = (text.removeprefix("Value error, ") for text in chosen.values())
    return _cut(" or ".join([first, *(text.removeprefix(EXPECTED) for text in others)]), MAX_MESSAGE)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
