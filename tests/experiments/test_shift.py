"""`experiments/shift` from its files to its tables, on a tiny BERT."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from experiments.shifted import experiment, shift
from experiments.shifted.variants import FIRST, LONGER, NAMES, TRAINED, VANILLA
from tests.experiments.sharp_bert import sharp_backbone
from tests.experiments.shift_files import make_files


def _run(tmp_path: Path, scope: shift.Scope) -> dict[str, object]:
    backbone = sharp_backbone(tmp_path / "bert")
    files = make_files(tmp_path / "shift")
    shift.run(files, scope, str(backbone), tmp_path / "states", tmp_path / "out.json")
    content: dict[str, object] = orjson.loads((tmp_path / "out.json").read_bytes())
    return content


def test_a_run_prints_and_writes_every_row_against_vanilla(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "FIRST_STEPS", 3)
    monkeypatch.setattr(experiment, "STEPS", 2)
    content = _run(tmp_path, shift.Scope(max_tokens=64, seeds=2, meta_sets=("vstrong", "weak")))
    rows = content["rows"]
    assert isinstance(rows, list)
    found = {(row["meta"], row["variant"]): row["figures"] for row in rows}
    common = {(None, FIRST), (None, VANILLA), (None, LONGER)}
    assert set(found) == common | {(m, name) for m in ("vstrong", "weak") for name in NAMES if name != VANILLA}
    assert found[None, VANILLA]["id"]["accuracy"]["change"] == 0.0
    assert found[None, LONGER]["shifted"]["accuracy_shorter"]["value"] == 0.0
    for figures in found.values():
        assert set(figures) == {
            *("valid", "id", "mid", "strong", "vstrong", "shifted"),
            *("strong_groups", "vstrong_groups"),
        }
        for estimate in figures["shifted"].values():
            assert estimate["low"] <= estimate["high"]
    printed = capsys.readouterr().out
    assert printed.count("spread and calibration") == 2
    for name in NAMES:
        assert name in printed


def test_only_the_chosen_variants_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "FIRST_STEPS", 1)
    monkeypatch.setattr(experiment, "STEPS", 1)
    scope = shift.Scope(max_tokens=64, seeds=1, meta_sets=("weak",), variants=("average",))
    rows = _run(tmp_path, scope)["rows"]
    assert isinstance(rows, list)
    assert {row["variant"] for row in rows} == {FIRST, VANILLA, LONGER, "average"}


def test_without_data_the_error_names_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(shift.DATA_VARIABLE, raising=False)
    assert shift.main(["--quick", "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
    assert "pass --data DIR or set METARM_SHIFT_DATA" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--variants", "sgd,unheard"), ("--meta", "unheard")])
def test_an_unknown_name_is_refused(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        shift.main(["--data", ".", option, value])
    assert "unheard: not of" in capsys.readouterr().err


def test_training_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = experiment.first_options(0)
    monkeypatch.setenv("METARM_LABEL_SMOOTHING", "0.3")
    monkeypatch.setenv("METARM_WEIGHT_DECAY", "1.0")
    assert experiment.first_options(0) == plain
    assert plain.label_smoothing == 0.0


def test_the_variants_of_a_seed_see_the_same_pairs_and_other_seeds_see_others() -> None:
    runs = [experiment.next_options(variant, seed) for seed in (0, 1) for variant in TRAINED.values()]
    draws = [(run.seed, run.batch_size, run.steps) for run in runs]
    assert len(set(draws)) == 2
    assert len({experiment.first_options(seed).seed for seed in (0, 1)} | {run.seed for run in runs}) == 4
