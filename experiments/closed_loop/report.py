"""`experiments/report`: draw a study as PNG pictures and one HTML page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import command_line
from experiments.closed_loop.records import read_study
from metarm.errors import ConfigurationError


def main(arguments: Sequence[str] | None = None) -> int:
    return command_line.run(_parser(), report, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = command_line.parser(
        "report", "The paper's figures and tables from a study of experiments/simulate: PNGs and one HTML page."
    )
    parser.add_argument(
        "--simulation",
        type=Path,
        default=Path("data/simulation/study.json"),
        help="the study.json that experiments/simulate wrote",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/report"), help="folder for report.html and the PNGs"
    )
    return parser


def report(options: argparse.Namespace) -> None:
    """Draw and write. Raises ConfigurationError without matplotlib, and for a file that is not a study."""
    try:
        from experiments.closed_loop.page import page
        from experiments.closed_loop.pictures import draw_all
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error.name} is missing: pip install 'metarm-server[demo]'") from error

    study = read_study(options.simulation)
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = draw_all(study)
    for picture in pictures:
        (options.out / f"{picture.name}.png").write_bytes(picture.png)
    file = options.out / "report.html"
    file.write_text(page(study, pictures))
    print(f"wrote {file} and {len(pictures)} pictures")


if __name__ == "__main__":
    sys.exit(main())
