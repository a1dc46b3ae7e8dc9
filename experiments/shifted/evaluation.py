"""The pairs that a model is judged by, and its score differences on them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch

from experiments.shifted.comparison import Gaps, Ints, PairSet
from experiments.shifted.data import HELD_OUT, SHIFTED, ShiftData
from metarm.model.encoding import Encoded, Encoder
from metarm.model.reward_model import RewardModel
from metarm.records import Prompt

POOLED = "shifted"
CHUNK = 256  # texts scored at once

Text = tuple[Prompt, str]


class Evaluation:
    """Sets of pairs: HELD_OUT, each test, POOLED of the SHIFTED ones, and `NAME_groups`: all pairs of responses
    within the unlabelled groups, in either order."""

    def __init__(self, encoder: Encoder, data: ShiftData) -> None:
        self.texts: list[Encoded] = []
        self.sets: dict[str, PairSet] = {}
        self._encoder = encoder
        self._places: dict[bytes, int] = {}
        self._sides: dict[str, tuple[Ints, Ints]] = {}  # of each set's pairs, by place in `texts`
        self._words: dict[str, Ints] = {}
        prompts: dict[tuple[bool, str], int] = {}
        labelled = {
            name: [((p.prompt, p.chosen), (p.prompt, p.rejected)) for p in pairs]
            for name, pairs in data.labelled.items()
        }
        labelled[POOLED] = [pair for name in SHIFTED for pair in labelled[name]]
        for name, pairs in labelled.items():
            self._add(name, pairs, prompts, chosen_first=True)
        for name, groups in data.groups.items():
            sides = [
                ((group.prompt, one), (group.prompt, other))
                for group in groups
                for one, other in combinations(group.responses, 2)
            ]
            self._add(f"{name}_groups", sides, prompts, chosen_first=False)
        self.strata = np.array([held_out for held_out, _ in prompts])

    def gaps(self, model: RewardModel) -> Gaps:
        """Score differences of every set's pairs, first minus second."""
        order = sorted(range(len(self.texts)), key=lambda place: len(self.texts[place].ids))
        scores = np.empty(len(order))
        with torch.inference_mode():
            for start in range(0, len(order), CHUNK):
                chunk = order[start : start + CHUNK]
                scores[chunk] = model.scores([self.texts[place] for place in chunk]).numpy()
        return {name: scores[first] - scores[second] for name, (first, second) in self._sides.items()}

    def word_gaps(self) -> Gaps:
        """The same differences with the number of words as the score."""
        return {name: gaps.astype(float) for name, gaps in self._words.items()}

    def _add(
        self,
        name: str,
        pairs: Sequence[tuple[Text, Text]],
        prompts: dict[tuple[bool, str], int],
        *,
        chosen_first: bool,
    ) -> None:
        sides = [self._places_of([pair[side] for pair in pairs]) for side in (0, 1)]
        words = np.array([_words(first) - _words(second) for first, second in pairs])
        belonging = [prompts.setdefault((name == HELD_OUT, repr(first[0])), len(prompts)) for first, _ in pairs]
        self._sides[name] = (sides[0], sides[1])
        self._words[name] = words
        self.sets[name] = PairSet(np.array(belonging), words < 0 if chosen_first else None)

    def _places_of(self, texts: Sequence[Text]) -> Ints:
        encoded = self._encoder.encode([(prompt, (response,)) for prompt, response in texts])
        places = []
        for (sample,) in encoded:
            place = self._places.setdefault(sample.key, len(self.texts))
            if place == len(self.texts):
                self.texts.append(sample)
            places.append(place)
        return np.array(places)


def _words(text: Text) -> int:
    return len(text[1].split())
