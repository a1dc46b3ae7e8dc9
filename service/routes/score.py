"""POST /score: encode, score by one version, answer, log. And POST /tokenize: what was scored."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any, cast

import orjson
from fastapi import APIRouter, Depends, Response

from metarm.encoding import Encoded
from metarm.errors import PayloadTooLargeError
from metarm.records import Message, PolicyStamp, Prompt, SampleGroup
from metarm.sample_log import LoggedRequest
from service.access import require_key
from service.live_model import LoadedVersion
from service.parts import Parts, Wired
from service.schemas import Group, ScoreRequest, ScoreResponse, TokenizeRequest, TokenizeResponse
from service.traffic import ScoredTraffic

router = APIRouter(tags=["scoring"], dependencies=[Depends(require_key)])
OWN_RETRIES_S = 600  # a made-up request id only has to outlive our own retries of one write


@router.post("/score", response_model=ScoreResponse)
async def score(body: ScoreRequest, parts: Wired) -> Response:
    """Score every response of every group with one reward model, and say which one it was."""
    _check_limits(body.groups, parts)
    version = await parts.live.get(body.version, body.min_version)
    encoded = await _encode(version, body.groups, parts)
    scores = await parts.scorer.score(version, encoded)
    parts.traffic.scored(version, _traffic(body, encoded, scores))
    if body.log:
        parts.writer.offer(_sample(body, version.name, scores, parts))
    groups = [
        {
            "id": _group_id(group, place),
            "scores": scores[place],
            "tokens": [len(sample.ids) for sample in encoded[place]],
            "truncated": [sample.truncated for sample in encoded[place]],
        }
        for place, group in enumerate(body.groups)
    ]
    return _json({"version": version.name, "groups": groups})


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(body: TokenizeRequest, parts: Wired) -> Response:
    """The token ids /score would feed the model: compare them with your training engine's."""
    _check_limits(body.groups, parts)
    version = await parts.live.get(body.version, None)
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


async def _encode(version: LoadedVersion, groups: Sequence[Group], parts: Parts) -> list[list[Encoded]]:
    pairs = [(_prompt(group), group.responses) for group in groups]
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(parts.tokenizer_threads, version.model.encoder.encode, pairs)


def _traffic(
    body: ScoreRequest, encoded: list[list[Encoded]], scores: list[list[float]]
) -> list[ScoredTraffic]:
    policy = PolicyStamp(body.policy.name, body.policy.step) if body.policy else None
    return [
        ScoredTraffic(_prompt(group), group.responses, encoded[place], scores[place], policy)
        for place, group in enumerate(body.groups)
    ]


def _sample(body: ScoreRequest, version: str, scores: list[list[float]], parts: Parts) -> LoggedRequest:
    request_id = body.request_id or uuid.uuid4().hex
    policy = PolicyStamp(body.policy.name, body.policy.step) if body.policy else None
    groups = tuple(
        SampleGroup(
            id=f"{request_id}/{_group_id(group, place)}",
            request_id=request_id,
            prompt=_prompt(group),
            responses=tuple(group.responses),
            scores=tuple(scores[place]),
            version=version,
            scored_at=time.time(),
            policy=policy,
        )
        for place, group in enumerate(body.groups)
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
    return Response(orjson.dumps(body), media_type="application/json")
