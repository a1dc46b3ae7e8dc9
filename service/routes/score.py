"""POST /score: encode, score by one version, answer, log. And POST /tokenize: what was scored."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson
from fastapi import APIRouter, Depends, Response

from metarm.encoding import Encoded
from metarm.errors import PayloadTooLargeError
from metarm.records import Message, PolicyStamp, Prompt, SampleGroup
from metarm.sample_log import LoggedRequest
from metarm.tracing import span
from service.access import require_key
from service.canary import canary_beside
from service.live_model import LoadedVersion
from service.parts import Parts, Wired
from service.pinning import HEADER, Pin, PinOfHeaders
from service.schemas.score import Group, ScoreRequest, ScoreResponse, TokenizeRequest, TokenizeResponse
from service.traffic import ScoredTraffic

router = APIRouter(tags=["scoring"], dependencies=[Depends(require_key)])
OWN_RETRIES_S = 600  # a made-up request id only has to outlive our own retries of one write


@dataclass(frozen=True, slots=True)
class Scored:
    """A group as one version scored it: its k sequences, the model's rewards, and what is served."""

    version: LoadedVersion
    encoded: Sequence[Encoded]
    raw: Sequence[float]
    scores: Sequence[float]


@router.post("/score", response_model=ScoreResponse)
async def score(body: ScoreRequest, parts: Wired, of_headers: PinOfHeaders) -> Response:
    """Score every response of every group with one reward model, and say which one it was."""
    _check_limits(body.groups, parts)
    pin = of_headers.beside(body.version, body.min_version)
    version = await parts.live.get(pin.version, pin.min_version)
    versions = _share_out(body, pin, version, parts)
    with parts.live.using(version, *versions):
        scored = await _score_groups(body.groups, versions, parts)
    _show_traffic(body, scored, parts)
    if body.log:
        parts.writer.offer(_sample(body, scored, parts))
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
async def tokenize(body: TokenizeRequest, parts: Wired, of_headers: PinOfHeaders) -> Response:
    """The token ids /score would feed the model: compare them with your training engine's."""
    _check_limits(body.groups, parts)
    pin = of_headers.beside(body.version, body.min_version)
    version = await parts.live.get(pin.version, pin.min_version)
    with parts.live.using(version):
        encoded = await _encode(version, body.groups, parts)
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
    return [canary.version if canary.scores(_prompt(group)) else version for group in body.groups]


async def _score_groups(
    groups: Sequence[Group], versions: Sequence[LoadedVersion], parts: Parts
) -> list[Scored]:
    """Each group by its version, in order; the versions side by side."""
    places = {
        one: [n for n, version in enumerate(versions) if version is one] for one in dict.fromkeys(versions)
    }
    tasks = [_score_by(one, [groups[n] for n in places[one]], parts) for one in places]
    # each to its end, so that none is still at work when its version may leave memory
    results = await asyncio.gather(*tasks, return_exceptions=True) if len(tasks) > 1 else [await tasks[0]]
    scored: dict[int, Scored] = {}
    for one, result in zip(places, results, strict=True):
        if isinstance(result, BaseException):
            raise result
        scored.update(zip(places[one], result, strict=True))
    return [scored[n] for n in range(len(groups))]


async def _score_by(version: LoadedVersion, groups: Sequence[Group], parts: Parts) -> list[Scored]:
    encoded = await _encode(version, groups, parts)
    raw = await parts.scorer.score(version, encoded)
    scores = [parts.scorer.served(version, rewards) for rewards in raw]
    return [Scored(version, *group) for group in zip(encoded, raw, scores, strict=True)]


async def _encode(version: LoadedVersion, groups: Sequence[Group], parts: Parts) -> list[list[Encoded]]:
    pairs = [(_prompt(group), group.responses) for group in groups]
    loop = asyncio.get_running_loop()
    with span("tokenise", version=version.name, groups=len(groups)):
        return await loop.run_in_executor(parts.tokenizer_threads, version.model.encoder.encode, pairs)


def _show_traffic(body: ScoreRequest, scored: Sequence[Scored], parts: Parts) -> None:
    policy = _policy(body)
    for version in dict.fromkeys(one.version for one in scored):
        answered = [
            ScoredTraffic(_prompt(group), group.responses, one.encoded, one.scores, policy)
            for group, one in zip(body.groups, scored, strict=True)
            if one.version is version
        ]
        parts.traffic.scored(version, answered)


def _policy(body: ScoreRequest) -> PolicyStamp | None:
    return PolicyStamp(body.policy.name, body.policy.step) if body.policy else None


def _sample(body: ScoreRequest, scored: Sequence[Scored], parts: Parts) -> LoggedRequest:
    request_id = body.request_id or uuid.uuid4().hex
    policy = _policy(body)
    groups = tuple(
        SampleGroup(
            id=f"{request_id}/{_group_id(group, place)}",
            request_id=request_id,
            prompt=_prompt(group),
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


def _prompt(group: Group) -> Prompt:
    if isinstance(group.prompt, str):
        return group.prompt
    return cast("list[Message]", [message.model_dump() for message in group.prompt])


def _json(body: dict[str, Any]) -> Response:
    return Response(orjson.dumps(body), media_type="application/json", headers={HEADER: body["version"]})
