"""Groups → scores, each group wholly by one version; what a canary fails to score, the request's own does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import cast

from metarm.errors import NotReadyError, OverloadedError
from metarm.model.encoding import Encoded
from metarm.records import Message, Prompt
from metarm.runtime.tracing import span
from service.http.schemas.score import Group
from service.scoring.scorer import Scorer
from service.versions.canary import CanaryFallbacks
from service.versions.live_model import LoadedVersion

OF_THE_SERVER = (OverloadedError, NotReadyError)  # whichever version scores


@dataclass(frozen=True, slots=True)
class Scored:
    """A group as one version scored it: its k sequences, the model's rewards, and what is served."""

    version: LoadedVersion
    encoded: Sequence[Encoded]
    raw: Sequence[float]
    scores: Sequence[float]


class GroupScoring:
    """Encodes off the event loop, then scores through cache and queue."""

    def __init__(self, scorer: Scorer, tokenizer_threads: Executor, fallbacks: CanaryFallbacks) -> None:
        self._scorer = scorer
        self._tokenizer_threads = tokenizer_threads
        self._fallbacks = fallbacks

    async def score(
        self, groups: Sequence[Group], versions: Sequence[LoadedVersion], own: LoadedVersion
    ) -> list[Scored]:
        """Each group by its version, in order; the versions side by side. Groups that another version than
        the request's `own` fails to score are scored by that. Raises what `own` fails by, and OverloadedError
        and NotReadyError whoever met them."""
        others = [version for version in dict.fromkeys(versions) if version is not own]
        if not others:
            return await self._score_by(own, groups)
        places = {one: [n for n, by in enumerate(versions) if by is one] for one in (own, *others)}
        if not places[own]:
            del places[own]
        tasks = [self._score_by(one, [groups[n] for n in places[one]]) for one in places]
        # each to its end, so that none is still at work when its version may leave memory
        results = await asyncio.gather(*tasks, return_exceptions=True)
        scored: dict[int, Scored] = {}
        for one, result in zip(places, results, strict=True):  # `own` comes first
            if isinstance(result, list):
                scored.update(zip(places[one], result, strict=True))
            elif one is own or not isinstance(result, Exception) or isinstance(result, OF_THE_SERVER):
                raise result
            else:
                self._fallbacks(one.name, len(places[one]), result)
        left = [n for n in range(len(groups)) if n not in scored]
        again = await self._score_by(own, [groups[n] for n in left]) if left else []
        scored.update(zip(left, again, strict=True))
        return [scored[n] for n in range(len(groups))]

    async def encode(self, version: LoadedVersion, groups: Sequence[Group]) -> list[list[Encoded]]:
        pairs = [(prompt_of(group), group.responses) for group in groups]
        loop = asyncio.get_running_loop()
        with span("tokenise", version=version.name, groups=len(groups)):
            return await loop.run_in_executor(self._tokenizer_threads, version.model.encoder.encode, pairs)

    async def _score_by(self, version: LoadedVersion, groups: Sequence[Group]) -> list[Scored]:
        encoded = await self.encode(version, groups)
        raw = await self._scorer.score(version, encoded)
        scores = [self._scorer.served(version, rewards) for rewards in raw]
        return [Scored(version, *group) for group in zip(encoded, raw, scores, strict=True)]


def prompt_of(group: Group) -> Prompt:
    if isinstance(group.prompt, str):
        return group.prompt
    return cast("list[Message]", [message.model_dump() for message in group.prompt])
