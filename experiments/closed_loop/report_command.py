"""`metarm report`: a study as pictures and one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.closed_loop.records import read_study
from metarm.errors import ConfigurationError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `metarm report` takes."""
    parser.add_argument(
        "--simulation",
        type=Path,
        default=Path("data/simulation/study.json"),
        help="what `metarm simulate` wrote",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("data/report"), help="folder for report.html and the PNGs"
    )


def report(options: argparse.Namespace) -> None:
    """Draw and write. Raises ConfigurationError without matplotlib, and for a file that is no study."""
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
