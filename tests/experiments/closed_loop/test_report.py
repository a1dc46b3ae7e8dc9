from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from experiments.closed_loop.records import write_study
from experiments.closed_loop.report import main
from experiments.closed_loop.tables import claims_table, summary, win_rows
from tests.experiments.closed_loop.synthetic_studies import synthetic_run, synthetic_study

ROOT = Path(__file__).parents[3]


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    study = synthetic_study(8, fixed=synthetic_run, none=synthetic_run, sgd=synthetic_run, joint=synthetic_run)
    write_study(study, tmp_path / "study.json")
    return tmp_path / "study.json"


def test_the_page_is_self_contained_and_has_every_picture_and_claim(study_file: Path, tmp_path: Path) -> None:
    assert main(["--simulation", str(study_file), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    pictures = sorted(path.stem for path in (tmp_path / "report").glob("*.png"))
    assert pictures == ["figure-1-variance", "figure-4-validation", "figure-5-differences", "gold-by-round"]
    assert page.count("data:image/png;base64,") == len(pictures)
    assert re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|<script", page) == []
    assert all(f"<td>C{number}</td>" in page for number in range(1, 8))
    assert "prefers-color-scheme: dark" in page
    HTMLParser().feed(page)


def test_a_report_needs_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--simulation", str(tmp_path / "none.json"), "--out", str(tmp_path / "o")]) == 1
    assert "none.json cannot be read" in capsys.readouterr().err


def test_without_matplotlib_the_error_names_the_extra(study_file: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from experiments.closed_loop.report import main\n"
        f"sys.exit(main(['--simulation', {str(study_file)!r}, '--out', {str(tmp_path)!r}]))"
    )
    command = [sys.executable, "-c", code]
    # from the checkout: experiments/ is not installed
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install 'metarm-server[demo]'" in ended.stderr


def test_tables_name_every_arm_and_claim_and_warn_about_few_seeds() -> None:
    arms = {"fixed": synthetic_run, "none": synthetic_run, "sgd": synthetic_run}
    text = summary(synthetic_study(8, **arms))
    assert [name for name in ("C1", "C2", "C3", "C4", "C5", "C6", "C7") if f"\n{name}  " not in text] == []
    assert "answer nothing" not in text
    assert "3 seeds answer nothing" in claims_table(synthetic_study(3, **arms))


def test_each_arm_is_compared_only_with_others() -> None:
    study = synthetic_study(2, fixed=synthetic_run, none=synthetic_run, sgd=synthetic_run)
    opponents = {arm: set(outcomes) for arm, _, outcomes in win_rows(study)}
    assert opponents == {
        "best of 16": {"initial"},
        "fixed": {"initial", "best of n"},
        "none": {"initial", "fixed", "best of n"},
        "sgd": {"initial", "fixed", "vanilla", "best of n"},
    }
