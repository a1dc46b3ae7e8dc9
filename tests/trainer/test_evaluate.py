"""`metarm evaluate` on real versions: figures against plain transformers, and what is kept for the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from metarm.errors import ConfigurationError, NonFiniteScoreError, UnknownVersionError
from metarm.figures import PairScores, share_interval
from metarm.records import Preference
from metarm.store.evaluations import evaluations_of
from metarm.store.versions import Label, VersionStore
from tests.offline import OfflineModel
from tests.store import publish, publish_several
from tests.tiny import CORPUS, poisoned
from trainer.evaluate import EvaluateSettings, measured, run

PAIRS = [
    {
        "prompt": CORPUS[n % len(CORPUS)],
        "chosen": f"{n} " + CORPUS[(n + 1) % len(CORPUS)],
        "rejected": f"{n} " + CORPUS[(n + 2) % len(CORPUS)] * (1 + n % 3),
    }
    for n in range(60)
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_several(tmp_path_factory.mktemp("data"), 2, current=2)


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    file = tmp_path / "fresh.jsonl"
    file.write_text("\n".join(json.dumps(pair) for pair in PAIRS))
    return file


def wins(store: VersionStore, name: str) -> list[float]:
    """By plain transformers, pair by pair."""
    offline = OfflineModel(store.path(name))
    chosen, rejected = (
        [offline.score(pair["prompt"], pair[side]) for pair in PAIRS] for side in ("chosen", "rejected")
    )
    return PairScores(chosen, rejected).wins


def test_the_figures_are_those_of_plain_transformers_and_are_kept(
    data_dir: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = VersionStore(data_dir / "versions")
    run(EvaluateSettings(data_dir=data_dir, preferences=fresh, names=["v000001", "current"], json=True))
    records = json.loads(capsys.readouterr().out)
    before, after = wins(store, "v000001"), wins(store, "v000002")
    assert records["v000001"]["accuracy"] == pytest.approx(sum(before) / 60)
    assert records["v000001"]["change"] is None, "it has no parent"
    second = records["v000002"]
    assert second["accuracy"] == pytest.approx(sum(after) / 60)
    assert second["interval"] == pytest.approx(share_interval(sum(after) / 60, 60))
    assert second["change"]["mean"] == pytest.approx((sum(after) - sum(before)) / 60)
    assert second["change"]["lost"] == sum(b > a for b, a in zip(before, after, strict=True))
    assert [part["pairs"] for part in second["by_length"]] == [15, 15, 15, 15]
    mean = sum(part["accuracy"] for part in second["by_length"]) / 4
    assert mean == pytest.approx(second["accuracy"])
    assert evaluations_of(store.root, "v000002") == [second]


def test_an_evaluation_on_the_same_pairs_takes_the_place_of_the_last(data_dir: Path, fresh: Path) -> None:
    store = VersionStore(data_dir / "versions")
    store.set_label("stable", Label("v000001"))
    for _ in range(2):
        run(EvaluateSettings(data_dir=data_dir, preferences=fresh, names=["stable"]))
    kept = [one for one in evaluations_of(store.root, "v000001") if one["preferences"]["source"] == str(fresh)]
    assert len(kept) == 1


def test_the_tables_say_what_was_measured(
    data_dir: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(EvaluateSettings(data_dir=data_dir, preferences=fresh))
    shown = capsys.readouterr().out
    assert f"60 pairs of {fresh}" in shown
    assert "if the longer response always wins" in shown
    assert "(v000001)" in shown
    assert "v000002, by the characters of the longer response" in shown


def test_a_parent_without_files_is_named(
    tmp_path: Path, data_dir: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data_dir, tmp_path / "data", symlinks=True)
    store = VersionStore(tmp_path / "data" / "versions")
    for label in store.labels():
        store.remove_label(label)
    store.prune("v000001")
    run(EvaluateSettings(data_dir=tmp_path / "data", preferences=fresh))
    assert "its parent v000001 is not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"names": ["v000009"]}, UnknownVersionError),
        ({"preferences": Path("nowhere.jsonl")}, ConfigurationError),
    ],
)
def test_what_cannot_be_measured_is_refused(
    data_dir: Path, fresh: Path, given: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(EvaluateSettings(**{"data_dir": data_dir, "preferences": fresh, **given}))


def test_the_longer_response_wins_by_quarter() -> None:
    pairs = [Preference("p", "x" * (n + 1), "y") for n in range(1, 9)]
    found = measured(pairs, PairScores([1.0] * 8, [0.0] * 8), None)
    assert found["longer_wins"] == 1.0
    assert [part["chars"] for part in found["by_length"]] == [[2, 3], [4, 5], [6, 7], [8, 9]]


def test_a_few_pairs_have_fewer_quarters_and_a_p_value_of_one() -> None:
    pair = Preference("p", "a", "b")
    found = measured([pair], PairScores([1.0], [0.0]), PairScores([1.0], [0.0]))
    assert [part["pairs"] for part in found["by_length"]] == [1]
    assert found["change"]["p"] == 1.0


def test_rewards_that_are_not_finite_are_no_losses(
    tmp_path: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path, poisoned(tmp_path / "poisoned", "pencils"))
    with pytest.raises(NonFiniteScoreError, match="of 120 rewards are not finite"):
        run(EvaluateSettings(data_dir=tmp_path, preferences=fresh))


def test_the_pairs_are_named_on_the_command_line_alone(
    monkeypatch: pytest.MonkeyPatch, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """METARM_PREFERENCES are those of training."""
    monkeypatch.setenv("METARM_PREFERENCES", str(fresh))
    with pytest.raises(SystemExit):
        EvaluateSettings.from_command_line("metarm evaluate", [])
    assert "preferences" in capsys.readouterr().err
