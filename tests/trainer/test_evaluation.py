"""The evaluation of real tiny models, and the gate's verdict on sabotaged ones."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metarm.errors import InvalidVersionError, TrainingError
from metarm.figures import PairScores
from metarm.model import probe
from metarm.model.encoding import Encoded
from metarm.model.reward_model import RewardModel, load_model
from metarm.records import Preference, SampleGroup
from metarm.store.calibration import IDENTITY, Calibration
from tests.demo_groups import demo_groups
from tests.tiny import CORPUS, Kind
from trainer.evaluation import (
    RECENT_GROUPS,
    RECENT_RESPONSES,
    EvaluationSet,
    calibrated_like,
    described,
    described_first,
)
from trainer.gate import Thresholds, Verdict, judge
from trainer.settings import TrainerSettings
from trainer.training import score_pairs

WORDS = " ".join(CORPUS).split()
Change = Callable[[RewardModel], None]


def preferences(count: int = 60) -> list[Preference]:
    return [
        Preference(g["prompt"][:40], " ".join(WORDS[i % 20 :][: 3 + i % 9]), g["responses"][1][:30])
        for i, g in enumerate(demo_groups(count))
    ]


def groups(count: int = 40) -> list[SampleGroup]:
    made = []
    for place, row in enumerate(demo_groups(count)):
        texts = tuple(" ".join(WORDS[(place + 5 * j) % 30 :][: 2 + (3 * j + place) % 11]) for j in range(4))
        made.append(SampleGroup(f"{place}", f"{place}", row["prompt"][:40], texts, (0.0,) * 4, "v000001", 0.0))
    return made


@pytest.fixture
def parent(checkpoint: Callable[[Kind], Path]) -> RewardModel:
    model = load_model(checkpoint("bert"), 128)
    for weight in model.network.parameters():
        weight.requires_grad_(False)
    return model


@pytest.fixture
def judged(
    parent: RewardModel, checkpoint: Callable[[Kind], Path], tmp_path: Path
) -> Callable[[Change], Verdict]:
    """A function that changes the parent, saves and loads it as a candidate, and returns the verdict."""

    def judged(change: Change) -> Verdict:
        evaluation = EvaluationSet.of(parent.encoder, labelled_by(parent), groups())
        before = evaluation.rewards(parent)
        candidate = load_model(checkpoint("bert"), 128)
        with torch.no_grad():
            change(candidate)
        candidate.save(tmp_path / "candidate")
        after = evaluation.rewards(load_model(tmp_path / "candidate", 128))
        return judge(before, after, evaluation.lengths, Thresholds.of(TrainerSettings()))

    return judged


def labelled_by(model: RewardModel) -> list[Preference]:
    """Preferences whose chosen response is the one that `model` ranks higher."""
    given = preferences()
    scores = score_pairs(model, EvaluationSet.of(model.encoder, given, []).held_out)
    return [
        pair if margin > 0 else Preference(pair.prompt, pair.rejected, pair.chosen)
        for pair, margin in zip(given, scores.margins, strict=True)
    ]


def scale_head(factor: float) -> Change:
    def change(model: RewardModel) -> None:
        for weight in model.network.classifier.parameters():
            weight.mul_(factor)

    return change


def test_an_unchanged_model_is_accepted(judged: Callable[[Change], Verdict]) -> None:
    verdict = judged(lambda _: None)
    assert verdict.accepted, verdict.reasons
    assert verdict.figures["agreement"] == 1.0
    assert verdict.figures["recent_groups"] == 40


def test_a_model_with_a_negated_head_is_rejected_for_its_accuracy_and_agreement(
    judged: Callable[[Change], Verdict],
) -> None:
    text = " | ".join(judged(scale_head(-1.0)).reasons)
    assert "held-out accuracy fell from 1.000 to 0.000" in text
    assert "beyond chance" in text
    assert "orders 0.000" in text


def test_a_model_with_a_tenfold_head_is_rejected_only_for_its_scale(
    judged: Callable[[Change], Verdict],
) -> None:
    (reason,) = judged(scale_head(10.0)).reasons
    assert "spread 10 times as wide" in reason


def test_a_model_with_a_constant_score_is_rejected(
    judged: Callable[[Change], Verdict],
) -> None:
    assert "the candidate gives every response the same score" in judged(scale_head(0.0)).reasons


def test_a_model_with_one_non_finite_weight_is_rejected(
    judged: Callable[[Change], Verdict],
) -> None:
    def change(model: RewardModel) -> None:
        model.network.classifier.weight[0, 0] = math.nan

    verdict = judged(change)
    assert verdict.reasons == ["the candidate answers scores that are not finite numbers"]
    assert not verdict.despite(force=True).publishes


def test_a_model_that_counts_tokens_is_rejected_for_its_length_correlation(
    parent: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = EvaluationSet.of(parent.encoder, labelled_by(parent), groups())
    before = evaluation.rewards(parent)

    def by_length(samples: list[Encoded]) -> Tensor:
        return torch.tensor([0.01 * len(sample.ids) for sample in samples])

    monkeypatch.setattr(parent, "scores", by_length)
    verdict = judge(before, evaluation.rewards(parent), evaluation.lengths, Thresholds.of(TrainerSettings()))
    assert any("correlate +1.000 with length" in reason for reason in verdict.reasons)


# --- the evaluation set -----------------------------------------------------------------------------------


def test_the_evaluation_set_contains_the_newest_groups(parent: RewardModel) -> None:
    many = groups(RECENT_GROUPS + 30)
    evaluation = EvaluationSet.of(parent.encoder, [], many)
    assert len(evaluation.recent) == RECENT_GROUPS
    newest = parent.encoder.encode([(many[-1].prompt, many[-1].responses)])[0]
    assert evaluation.recent[-1] == newest
    assert evaluation.lengths[-1] == [len(response.ids) for response in newest]


def test_repeated_responses_count_once_and_groups_with_one_response_are_left_out(parent: RewardModel) -> None:
    repeated = SampleGroup(
        "a", "a", "What?", ("The first.", "The second.", "The first."), (0, 0, 0), "v000001", 0
    )
    same = SampleGroup("b", "b", "What?", ("The first.",) * 5, (0,) * 5, "v000001", 0)
    long = SampleGroup("c", "c", "What?", tuple(WORDS[:20]), (0,) * 20, "v000001", 0)
    evaluation = EvaluationSet.of(parent.encoder, [], [repeated, same, long])
    assert [len(group) for group in evaluation.recent] == [2, RECENT_RESPONSES]


def test_without_recent_groups_the_held_out_pairs_are_scored(parent: RewardModel) -> None:
    evaluation = EvaluationSet.of(parent.encoder, preferences(3), [])
    rewards = evaluation.rewards(parent)
    assert rewards.recent == evaluation.lengths == []
    assert len(rewards.held_out.all) == 6


# --- the fields of a manifest ------------------------------------------------------------------------


def test_a_candidates_calibrated_scores_have_the_median_and_spread_of_its_parents(parent: RewardModel) -> None:
    given = preferences()
    pairs = EvaluationSet.of(parent.encoder, given, []).held_out
    before = score_pairs(parent, pairs)
    of_parent = Calibration(2.0, -1.0)
    with torch.no_grad():
        scale_head(-3.0)(parent)
    after = score_pairs(parent, pairs)
    calibration = calibrated_like(after, before, of_parent)
    fields = described(parent, after, calibration, given)
    assert fields["calibration"] == calibration.record()
    served = calibration.scores(after.all)
    first, middle, third = statistics.quantiles(of_parent.scores(before.all), n=4, method="inclusive")
    reference = fields["reference"]
    assert statistics.median(served) == reference["median"] == pytest.approx(middle)
    assert reference["iqr"] == pytest.approx(third - first)
    assert reference["texts"] == len(served) == 120
    assert min(served) <= reference["low"] < reference["median"] < reference["high"] <= max(served)
    margins = [c - r for c, r in zip(served[:60], served[60:], strict=True)]
    assert reference["spread"] == pytest.approx(statistics.pstdev(margins))
    assert calibration.scale > 0
    probe.check(parent, {"name": "v000002", **fields})


def test_a_parent_with_non_finite_scores_gives_no_calibration(parent: RewardModel) -> None:
    raw = score_pairs(parent, EvaluationSet.of(parent.encoder, preferences(4), []).held_out)
    nothing = PairScores([math.nan] * 4, [math.nan] * 4)
    with pytest.raises(InvalidVersionError, match="needs a positive, finite scale"):
        calibrated_like(raw, nothing, IDENTITY)


def test_a_first_version_serves_its_raw_rewards(parent: RewardModel) -> None:
    fields, raw = described_first(parent, preferences())
    assert fields["calibration"] == IDENTITY.record()
    assert fields["reference"]["median"] == pytest.approx(statistics.median(raw.all))


def test_the_reference_has_a_digest_of_its_texts(parent: RewardModel) -> None:
    digests = {
        described_first(parent, given)[0]["reference"]["digest"] for given in (preferences(5), preferences(6))
    }
    again = described_first(parent, preferences(5))[0]["reference"]["digest"]
    assert len(digests) == 2
    assert again in digests


def test_without_preferences_there_is_no_reference(parent: RewardModel) -> None:
    fields, raw = described_first(parent, [])
    assert fields["reference"] is None
    assert fields["calibration"] == IDENTITY.record()
    assert raw.all == []
    probe.check(parent, fields)


@pytest.mark.parametrize("given", [preferences(4), []])
def test_a_first_model_with_non_finite_scores_raises_a_training_error(
    parent: RewardModel, given: list[Preference]
) -> None:
    with torch.no_grad():
        scale_head(math.nan)(parent)
    with pytest.raises(TrainingError, match="not finite"):
        described_first(parent, given)
