"""A request to POST /score: checked, and sent in parts if the server refuses it as too large (413)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metarm.answers import Answer, noted, score_result
from metarm.calls import refused
from metarm.errors import ClientError, PayloadTooLargeError, VersionUnavailableError
from metarm.records import ScoredGroup, ScoreResult

Group = dict[str, Any]
Send = Callable[[Mapping[str, Any]], Answer]  # the body of a POST /score → its answer
LONGEST_REQUEST_ID = 200
FIELDS = ("id", "prompt", "responses")
ABOUT_GROUPS = frozenset({200, 400, 413, 422})  # these errors may name a group by its place: 200 is unreadable
RESPONSES_LIMIT = "METARM_MAX_RESPONSES"
TEXT_LIMIT = "METARM_MAX_TEXT_CHARS"  # of one text: parts do not help


@dataclass(frozen=True, slots=True)
class Part:
    """Groups of a request, from group `first` on; or some responses of that one group, from `response` on."""

    groups: list[Group]
    first: int = 0
    response: int | None = None

    def halves(self) -> list[Part]:
        """Two parts of half the groups, or of half a single group's responses; none for a single response."""
        middle = len(self.groups) // 2
        if middle:
            return [Part(self.groups[:middle], self.first), Part(self.groups[middle:], self.first + middle)]
        (group,) = self.groups
        responses, start = group["responses"], self.response or 0
        middle = len(responses) // 2
        return [
            Part([{**group, "responses": some}], self.first, start + offset)
            for offset, some in ((0, responses[:middle]), (middle, responses[middle:]))
            if middle
        ]

    def ids(self) -> list[str]:
        """As the server returns them: by default the group's index in the whole request."""
        places = enumerate(self.groups, self.first)
        return [str(place) if group.get("id") is None else group["id"] for place, group in places]

    def size(self) -> tuple[int, int]:
        """Responses, and characters of all texts."""
        responses = sum(len(group["responses"]) for group in self.groups)
        return responses, sum(_characters(group) for group in self.groups)

    def request_id(self, whole: str) -> str:
        """The same for every repetition of the whole request, so that each part is logged once."""
        place = f".{self.first}" if self.response is None else f".{self.first}.{self.response}"
        if len(whole) + len(place) > LONGEST_REQUEST_ID:
            whole = hashlib.blake2b(whole.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        return whole + place


class RefusedSizes:
    """What the server has refused as too large: as large a request is divided before it is sent.
    Thread-safe."""

    def __init__(self) -> None:
        self._least: dict[str, tuple[int, int]] = {}  # by the server's setting: responses, characters

    def add(self, part: Part, error: ClientError) -> None:
        setting, limit = str(error.details.get("setting")), error.details.get("limit")
        if setting == RESPONSES_LIMIT and isinstance(limit, int) and limit > 0:
            self._least[setting] = limit + 1, 0
        else:
            self._least[setting] = part.size()

    def refuse(self, part: Part) -> bool:
        if not self._least:
            return False
        responses, characters = part.size()
        return any(responses >= r and characters >= c for r, c in list(self._least.values()))


class PartedScore:
    """One request, scored by one version in as many parts as it needs.

    Parts pin no version if the request pins none, so that a canary keeps its prompts. A part that another
    version answers (after a swap) is scored again by the version of the parts before, and so is every later
    part; if that version is then unavailable, all parts are scored once more by the current one.
    """

    def __init__(
        self, groups: list[Group], options: Mapping[str, Any], send: Send, sizes: RefusedSizes
    ) -> None:
        """`options`: the other fields of the body, with a `request_id`."""
        self._whole = Part(groups)
        self._options = options
        self._send = send
        self._sizes = sizes
        self._pin: str | None = options.get("version")  # of the last request sent

    def result(self) -> ScoreResult:
        """Raises ClientError."""
        try:
            return self._in_parts()
        except ClientError as error:
            if error.error_code != VersionUnavailableError.code or self._pin == self._options.get("version"):
                raise
        return self._in_parts()

    def _in_parts(self) -> ScoreResult:
        waiting = [self._whole]
        done: list[tuple[Part, ScoreResult]] = []
        pin = self._options.get("version")
        while waiting:
            part = waiting.pop()
            halves = part.halves()
            if halves and self._sizes.refuse(part):
                waiting += reversed(halves)
                continue
            try:
                if part.response:  # the rest of a group: one version scores all its responses
                    result = self._scored(part, done[-1][1].groups[-1].version)
                else:
                    result = self._scored(part, pin)
                    if done and result.version != done[0][1].version:
                        pin = done[0][1].version
                        result = self._scored(part, pin)
            except ClientError as error:
                if halves and _is_too_large(error):
                    self._sizes.add(part, error)
                    waiting += reversed(halves)
                    continue
                if part.first and error.http_status in ABOUT_GROUPS:
                    noted(error, f"in a part of the request, which counts from its group {part.first}")
                raise
            if pin is not None:
                pin = result.version  # a label may move between two parts
            done.append((part, result))
        return _merged(done)

    def _scored(self, part: Part, pin: str | None) -> ScoreResult:
        self._pin = pin
        body = {**self._options, "groups": part.groups}
        if pin is not None:
            body["version"] = pin
        if part is not self._whole:
            body["request_id"] = part.request_id(self._options["request_id"])
            body["groups"] = [{**group, "id": id_} for group, id_ in zip(part.groups, part.ids(), strict=True)]
        counts = [len(group["responses"]) for group in part.groups]
        return score_result(self._send(body), part.ids(), counts, raw=bool(self._options.get("raw")), pin=pin)


def checked_groups(groups: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Copies of the groups. Raises ClientError `invalid_request` for what no request can hold."""
    if isinstance(groups, str | bytes | Mapping) or not isinstance(groups, Iterable):
        raise refused(f"groups is of type {type(groups).__name__}: give a list of groups")
    found = [_checked_group(group, place) for place, group in enumerate(groups)]
    if not found:
        raise refused("groups is empty")
    return found


def _checked_group(group: Any, place: int) -> Group:
    def check(right: bool, problem: str) -> None:
        if not right:
            raise refused(f"group {place}: {problem}")

    check(isinstance(group, Mapping), f"it is of type {type(group).__name__}, and no mapping")
    prompt, responses, id_ = group.get("prompt"), group.get("responses"), group.get("id")
    texts = _is_list(responses) and all(map(_is_text, responses))
    missing = [name for name in FIELDS[1:] if group.get(name) is None]
    unknown = ", ".join(f"{name!r:.50}" for name in group if name not in FIELDS)
    also = f" (unknown: {unknown:.200})" if unknown else ""
    check(not missing, f"it has no {' and no '.join(missing)}{also}")
    check(texts and len(responses) > 0, "its responses are no list of at least one text in valid Unicode")
    messages = _is_list(prompt) and len(prompt) > 0 and all(isinstance(m, Mapping) for m in prompt)
    check(_is_text(prompt) or messages, "its prompt is neither a text in valid Unicode nor a list of messages")
    check(id_ is None or _is_text(id_), "its id is no text in valid Unicode")
    copied = prompt if isinstance(prompt, str) else [dict(message) for message in prompt]
    return {**group, "prompt": copied, "responses": list(responses)}


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview)


def _characters(group: Group) -> int:
    prompt = group["prompt"]
    asked = len(prompt) if isinstance(prompt, str) else sum(len(str(m.get("content"))) for m in prompt)
    return asked + sum(map(len, group["responses"]))


def _is_too_large(error: ClientError) -> bool:
    """Whether the request is too large, and not one of its texts."""
    about_a_text = error.details.get("setting", TEXT_LIMIT if "group" in error.details else None) == TEXT_LIMIT
    return error.http_status == PayloadTooLargeError.status and not about_a_text


def _merged(parts: Iterable[tuple[Part, ScoreResult]]) -> ScoreResult:
    version, groups = "", list[ScoredGroup]()
    for part, result in parts:
        version = version or result.version
        if not part.response:
            groups += result.groups
            continue
        begun, (rest,) = groups.pop(), result.groups
        raw = None if begun.raw is None or rest.raw is None else begun.raw + rest.raw
        joined = {
            name: getattr(begun, name) + getattr(rest, name) for name in ("scores", "tokens", "truncated")
        }
        groups.append(replace(begun, raw=raw, **joined))
    return ScoreResult(version, tuple(groups))
