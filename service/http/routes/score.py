"""POST /score: score the groups by one version, answer, log. POST /tokenize: the tokens that /score reads."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from itertools import count
from typing import Any, cast

import orjson
from fastapi import APIRouter, Depends, Request, Response

from metarm.errors import PayloadTooLargeError
from metarm.records import PolicyStamp, Prompt, SampleGroup
from metarm.shared.sample_log import LoggedRequest
from service.http.access import RunningServer, require_key
from service.http.disconnects import ClientPresent
from service.http.pinning import HEADER, HeaderPin, Pin, record_captured
from service.http.route import Route
from service.http.schemas.score import Group as GroupBody
from service.http.schemas.score import ScoreRequest, ScoreResponse, TokenizeRequest, TokenizeResponse
from service.scoring.scorer import Group, ScoredGroup
from service.scoring.turns import in_turns
from service.server import Server
from service.settings import ServiceSettings
from service.versions.canary import CANARY, active_canary
from service.versions.live import LoadedVersion

router = APIRouter(route_class=Route, tags=["scoring"], dependencies=[Depends(require_key)])
OWN_RETRIES_S = 600  # a generated request id only has to outlive the server's own retries of one write


@router.post("/score", response_model=ScoreResponse)
async def score(body: ScoreRequest, request: Request, server: RunningServer, header_pin: HeaderPin) -> Response:
    """Score every response of every group with one reward model, and name its version."""
    pin = header_pin.merged_with(body.version, body.min_version)
    asked = Scoring(body, _groups(body, server.settings), pin, server)
    with ClientPresent(request, server.metrics):
        try:
            if body.request_id is None:
                await asked.run()
            else:
                shared = server.in_flight.shared(asked)
                asked = shared.work
                await server.in_flight.end_of(shared)
        finally:
            if asked.captured:
                record_captured(request, asked.captured)
    asked.delivered()
    return _json(asked.answer)


class Scoring:
    """The work of one answer. A request with the same request_id, body and pin asks for the same answer."""

    def __init__(self, body: ScoreRequest, groups: Sequence[Group], pin: Pin, server: Server) -> None:
        self._body = body
        self._groups = groups
        self._pin = pin
        self._server = server
        self._policy = PolicyStamp(body.policy.name, body.policy.step) if body.policy else None
        self._scored: Sequence[ScoredGroup] = ()
        self._to_log: LoggedRequest | None = None
        self._delivered = False
        self.captured: str | None = None  # the name of the version, once it is chosen
        self.answer: dict[str, Any] = {}

    def __hash__(self) -> int:
        return hash(self._body.request_id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scoring) and (self._body, self._pin) == (other._body, other._pin)

    async def run(self) -> None:
        """Score the groups. May be cancelled at any await: nothing is logged before `delivered`."""
        live = self._server.versions.live
        own = await live.get(self._pin.version, self._pin.min_version)
        self.captured = own.name
        versions = _version_of_each(self._groups, self._pin, own, self._server)
        with live.using(own, *versions):
            self._scored = await self._server.scorer.score(self._groups, versions, own)
        ids = list(map(_group_id, self._body.groups, count()))
        rows = zip(ids, self._scored, strict=True)
        answers = [_answer(name, one, self._body.raw) async for name, one in in_turns(rows)]
        self.answer = {"version": own.name, "groups": answers}
        if self._body.log:
            self._to_log = await self._logged(ids)

    def delivered(self) -> None:
        """Count and log the groups, once for all who asked: someone gets the answer."""
        if self._delivered:
            return
        self._delivered = True
        self._server.oversight.traffic.answered(self._scored, self._policy)
        if self._to_log:
            self._server.samples.offer(self._to_log)

    async def _logged(self, ids: Sequence[str]) -> LoggedRequest:
        request_id, scored_at = self._body.request_id or uuid.uuid4().hex, time.time()
        groups = [
            SampleGroup(
                id=f"{request_id}/{name}",
                request_id=request_id,
                prompt=one.prompt,
                responses=tuple(one.responses),
                scores=tuple(one.scores),
                version=one.version.name,
                scored_at=scored_at,
                policy=self._policy,
            )
            async for name, one in in_turns(zip(ids, self._scored, strict=True))
        ]
        remember_s = self._server.settings.request_id_memory_s if self._body.request_id else OWN_RETRIES_S
        return LoggedRequest(request_id, tuple(groups), remember_s)


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(
    body: TokenizeRequest, request: Request, server: RunningServer, header_pin: HeaderPin
) -> Response:
    """The token ids that /score feeds the model: compare them with those of your training engine."""
    groups, pin = _groups(body, server.settings), header_pin.merged_with(body.version, body.min_version)
    live = server.versions.live
    with ClientPresent(request, server.metrics):
        version = await live.get(pin.version, pin.min_version)
        record_captured(request, version.name)
        with live.using(version):
            encoded = await server.scorer.encode(version, groups)
    answers = [
        {
            "id": _group_id(group, place),
            "input_ids": [sample.ids for sample in encoded[place]],
            "truncated": [sample.truncated for sample in encoded[place]],
        }
        for place, group in enumerate(body.groups)
    ]
    return _json({"version": version.name, **version.model.encoder.describe(), "groups": answers})


def _groups(body: ScoreRequest | TokenizeRequest, settings: ServiceSettings) -> list[Group]:
    """The groups of a body. Raises PayloadTooLargeError."""
    sizes = [len(group.responses) for group in body.groups]
    if (responses := sum(sizes)) > settings.max_responses:
        what, limit = f"{responses} responses in one request", settings.max_responses
        alone = _alone_over(limit, sizes)
        raise PayloadTooLargeError.over(limit, "METARM_MAX_RESPONSES", what, responses=responses, **alone)
    sizes = []
    for place, group in enumerate(body.groups):
        chars = [_prompt_chars(group), *map(len, group.responses)]
        if max(chars) > settings.max_text_chars:
            what = f"group {place} has a text of {max(chars)} characters"
            limit, setting = settings.max_text_chars, "METARM_MAX_TEXT_CHARS"
            raise PayloadTooLargeError.over(limit, setting, what, group=place, chars=max(chars))
        sizes.append(sum(chars))
    if (total := sum(sizes)) > settings.max_request_chars:
        what, limit = f"{total} characters in one request", settings.max_request_chars
        alone = _alone_over(limit, sizes)
        raise PayloadTooLargeError.over(limit, "METARM_MAX_REQUEST_CHARS", what, chars=total, **alone)
    return [Group(cast("Prompt", group.prompt), group.responses) for group in body.groups]


def _alone_over(limit: int, sizes: Sequence[int]) -> dict[str, int]:
    """The first group that is above the limit alone, for the details of an error."""
    return next(({"group": place} for place, size in enumerate(sizes) if size > limit), {})


def _prompt_chars(group: GroupBody) -> int:
    if isinstance(group.prompt, str):
        return len(group.prompt)
    return sum(len(message["role"]) + len(message["content"]) for message in group.prompt)


def _version_of_each(
    groups: Sequence[Group], pin: Pin, own: LoadedVersion, server: Server
) -> list[LoadedVersion]:
    """The version that scores each group: `own` or, without a pin, the canary for its share of the prompts."""
    live = server.versions.live
    canary = active_canary(own, live, pin.min_version) if CANARY in live.labels and not pin.version else None
    if canary is None:
        return [own] * len(groups)
    return [canary.version if canary.takes(group.prompt) else own for group in groups]


def _answer(name: str, scored: ScoredGroup, raw: bool) -> dict[str, Any]:
    return {
        "id": name,
        "version": scored.version.name,
        "scores": scored.scores,
        **({"raw": scored.raw} if raw else {}),
        "tokens": [len(sample.ids) for sample in scored.encoded],
        "truncated": [sample.truncated for sample in scored.encoded],
    }


def _group_id(group: GroupBody, place: int) -> str:
    return group.id if group.id is not None else str(place)


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json", headers={HEADER: body["version"]})
