"""POST /score: encode, score by one version, answer, log. And POST /tokenize: what was scored."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Depends, Request, Response

from metarm.errors import PayloadTooLargeError
from metarm.records import PolicyStamp, SampleGroup
from metarm.shared.sample_log import LoggedRequest
from service.http.access import require_key
from service.http.pinning import HEADER, Pin, PinOfHeaders, captured
from service.http.schemas.score import Group, ScoreRequest, ScoreResponse, TokenizeRequest, TokenizeResponse
from service.oversight.traffic import ScoredTraffic
from service.parts import Parts, Wired
from service.scoring.group_scoring import Scored, prompt_of
from service.versions.canary import canary_beside
from service.versions.live_model import LoadedVersion

router = APIRouter(tags=["scoring"], dependencies=[Depends(require_key)])
OWN_RETRIES_S = 600  # a made-up request id only has to outlive our own retries of one write


@router.post("/score", response_model=ScoreResponse)
async def score(body: ScoreRequest, request: Request, parts: Wired, of_headers: PinOfHeaders) -> Response:
    """Score every response of every group with one reward model, and say which one it was."""
    _check_limits(body.groups, parts)
    pin = of_headers.beside(body.version, body.min_version)
    version = await parts.live.get(pin.version, pin.min_version)
    captured(request, version.name)
    versions = _share_out(body, pin, version, parts)
    with parts.live.using(version, *versions):
        scored = await parts.group_scoring.score(body.groups, versions, version)
    policy = PolicyStamp(body.policy.name, body.policy.step) if body.policy else None
    _show_traffic(body, scored, policy, parts)
    if body.log:
        parts.writer.offer(_sample(body, scored, policy, parts))
    groups = [
        {
            "id": _group_id(group, place),
            "version": one.version.name,
            "scores": one.scores,
            **({"raw": one.raw} if body.raw else {}),
            "tokens": [len(sample.ids) for sample in one.encoded],
            "truncated": [sample.truncated for sample in one.encoded],
        }
        for place, (group, one) in enumerate(zip(body.groups, scored, strict=True))
    ]
    return _json({"version": version.name, "groups": groups})


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(body: TokenizeRequest, request: Request, parts: Wired, of_headers: PinOfHeaders) -> Response:
    """The token ids /score would feed the model: compare them with your training engine's."""
    _check_limits(body.groups, parts)
    pin = of_headers.beside(body.version, body.min_version)
    version = await parts.live.get(pin.version, pin.min_version)
    captured(request, version.name)
    with parts.live.using(version):
        encoded = await parts.group_scoring.encode(version, body.groups)
    groups = [
        {
            "id": _group_id(group, place),
            "input_ids": [sample.ids for sample in encoded[place]],
            "truncated": [sample.truncated for sample in encoded[place]],
        }
        for place, group in enumerate(body.groups)
    ]
    return _json({"version": version.name, **version.model.encoder.describe(), "groups": groups})


def _check_limits(groups: Sequence[Group], parts: Parts) -> None:
    settings = parts.settings
    responses = sum(len(group.responses) for group in groups)
    if responses > settings.max_responses:
        raise PayloadTooLargeError(
            f"{responses} responses in one request; at most {settings.max_responses}",
            limit=settings.max_responses,
        )
    for place, group in enumerate(groups):
        prompt = group.prompt if isinstance(group.prompt, str) else "".join(m.content for m in group.prompt)
        longest = max(len(text) for text in (prompt, *group.responses))
        if longest > settings.max_text_chars:
            raise PayloadTooLargeError(
                f"group {place} has a text of {longest} characters; at most {settings.max_text_chars}",
                group=place,
                limit=settings.max_text_chars,
            )


def _share_out(body: ScoreRequest, pin: Pin, version: LoadedVersion, parts: Parts) -> list[LoadedVersion]:
    """The version that scores each group: `version`, but for the canary's prompts where none is pinned."""
    canary = None if pin.version else canary_beside(version, parts.live, pin.min_version)
    if canary is None:
        return [version] * len(body.groups)
    return [canary.version if canary.scores(prompt_of(group)) else version for group in body.groups]


def _show_traffic(
    body: ScoreRequest, scored: Sequence[Scored], policy: PolicyStamp | None, parts: Parts
) -> None:
    for version in dict.fromkeys(one.version for one in scored):
        answered = [
            ScoredTraffic(prompt_of(group), group.responses, one.encoded, one.scores, policy)
            for group, one in zip(body.groups, scored, strict=True)
            if one.version is version
        ]
        parts.traffic.scored(version, answered)


def _sample(
    body: ScoreRequest, scored: Sequence[Scored], policy: PolicyStamp | None, parts: Parts
) -> LoggedRequest:
    request_id = body.request_id or uuid.uuid4().hex
    groups = tuple(
        SampleGroup(
            id=f"{request_id}/{_group_id(group, place)}",
            request_id=request_id,
            prompt=prompt_of(group),
            responses=tuple(group.responses),
            scores=tuple(one.scores),
            version=one.version.name,
            scored_at=time.time(),
            policy=policy,
        )
        for place, (group, one) in enumerate(zip(body.groups, scored, strict=True))
    )
    remember_s = parts.settings.request_id_memory_s if body.request_id else OWN_RETRIES_S
    return LoggedRequest(request_id, groups, remember_s)


def _group_id(group: Group, place: int) -> str:
    return group.id if group.id is not None else str(place)


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json", headers={HEADER: body["version"]})
