from __future__ import annotations

import math
import random
import statistics

import pytest

from metarm.errors import InvalidVersionError
from metarm.store.calibration import IDENTITY, Calibration, fit


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


@pytest.mark.parametrize("seed", range(5))
def test_a_calibrated_candidate_has_the_median_and_interquartile_range_of_its_parent(seed: int) -> None:
    rng = random.Random(seed)
    parent = [rng.gauss(0.3, 1.2) for _ in range(101)]
    candidate = [rng.gauss(-4.0, 9.0) for _ in range(101)]
    fitted = _quartiles(fit(candidate, parent).scores(candidate))
    wanted = _quartiles(parent)
    assert fitted[1] == pytest.approx(wanted[1])
    assert fitted[2] - fitted[0] == pytest.approx(wanted[2] - wanted[0])


def test_outliers_do_not_change_the_calibration() -> None:
    rng = random.Random(0)
    parent = [rng.gauss(0, 1) for _ in range(200)]
    wild = [1e6 if place % 10 == 0 and value > 1 else value for place, value in enumerate(parent)]
    line = fit(wild, parent)
    assert line.scale == pytest.approx(1.0, abs=0.1)
    assert line.shift == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_calibration_preserves_the_ranking_of_raw_rewards(seed: int) -> None:
    rng = random.Random(seed)
    raw = [rng.uniform(-3, 3) for _ in range(50)]
    scores = fit(raw, [rng.gauss(0, 0.1) for _ in range(50)]).scores(raw)
    assert sorted(range(50), key=raw.__getitem__) == sorted(range(50), key=scores.__getitem__)


def test_a_candidate_or_parent_with_constant_scores_keeps_the_scale() -> None:
    assert fit([2.0, 2.0, 2.0], [0.0, 1.0, 2.0]) == Calibration(1.0, -1.0)
    assert fit([0.0, 1.0, 2.0], [5.0, 5.0, 5.0]) == Calibration(1.0, 4.0)


def test_the_identity_calibration_changes_no_bit() -> None:
    raw = [0.1, -3e-9, 7.123456789012345]
    assert IDENTITY.scores(raw) == raw
    assert Calibration.of({"name": "v000001"}) == IDENTITY


def test_a_calibration_is_read_back_from_the_manifest() -> None:
    line = Calibration(0.25, -1.5)
    assert Calibration.of({"calibration": line.record()}) == line


@pytest.mark.parametrize(
    "line",
    [
        {"scale": 0.0, "shift": 0.0},
        {"scale": -1.0, "shift": 0.0},
        {"scale": math.inf, "shift": 0.0},
        {"scale": 1.0, "shift": math.nan},
        {"scale": None, "shift": 0.0},
        {"slope": 1.0},
    ],
)
def test_a_calibration_without_a_positive_finite_scale_is_rejected(line: dict[str, float]) -> None:
    with pytest.raises(InvalidVersionError, match="v000007: its calibration"):
        Calibration.of({"name": "v000007", "calibration": line})
