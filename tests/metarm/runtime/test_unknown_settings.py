"""Misspelt METARM_ names are reported at the start of every program, once, with the nearest known name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarm.runtime.unknown_settings import REPORTED, known_names, unknown_settings

PROGRAMS = {
    "up": ["up", "--host", "192.0.2.7", "--allow-open"],  # it cannot listen there
    "serve": ["serve"],  # without Redis
    "trainer": ["trainer"],
    "train": ["train", "--data-dir", "full"],
    "tune": ["tune"],
    "versions": ["versions", "list"],
    "demo": ["demo", "--url", "http://127.0.0.1:1"],
}


def stderr_of(arguments: list[str], **variables: str) -> list[str]:
    command = [sys.executable, "-m", "metarm", *arguments]
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    return done.stderr.splitlines()


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_names_a_misspelt_variable_once(program: str, tmp_path: Path) -> None:
    (tmp_path / "full" / "versions" / "v000001").mkdir(parents=True)
    (tmp_path / ".env").write_text("METARM_STEPZ=hush\nREDIS=hush\n")
    lines = stderr_of(PROGRAMS[program], METARM_RETRAN="hush", METARM_GATE_TOLERANCE="0.1")
    about = [line for line in lines if "no setting" in line]
    assert len(about) == 2
    assert about[0].endswith(
        "METARM_RETRAN in the environment is no setting and has no effect: did you mean METARM_RETRAIN?"
    )
    assert about[1].endswith("METARM_STEPZ in .env is no setting and has no effect: did you mean METARM_STEPS?")
    assert "hush" not in "".join(lines)


def test_json_logs_have_the_warning_as_json() -> None:
    first, *_ = stderr_of(["serve"], METARM_RETRAN="auto", METARM_LOG_FORMAT="json")
    assert json.loads(first)["level"] == "warning"
    assert "METARM_RETRAN" in json.loads(first)["message"]


def test_a_start_that_fails_for_a_misspelt_name_names_it() -> None:
    lines = stderr_of(["serve", "--host", "0.0.0.0"], METARM_SCORE_KEY="abc")
    assert "did you mean METARM_SCORE_KEYS?" in lines[0]
    assert "set METARM_SCORE_KEYS" in lines[1]


def test_known_names_in_any_case_and_foreign_names_are_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*known_names(), "metarm_seed", "METARMX", "RETRAN"]:
        monkeypatch.setenv(name, "1")
    assert unknown_settings() == []


def test_a_name_like_no_other_gets_no_hint_and_a_strange_one_is_shown_safely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("METARM_\n", "1")
    monkeypatch.setenv("METARM_QQQQ" + "Q" * 5000, "1")
    first, second = unknown_settings()
    assert first.startswith(r"'METARM_\n' in the environment")
    assert len(second) < 150
    assert "did you mean" not in second


def test_the_children_of_the_launcher_do_not_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METARM_RETRAN", "auto")
    monkeypatch.setenv(REPORTED, "true")
    assert unknown_settings() == []


def test_a_dotenv_that_cannot_be_read_is_left_to_the_settings(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"METARM_RETRAN=\xff\n")
    assert unknown_settings() == []
