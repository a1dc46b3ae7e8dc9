"""METARM_ variables that no program reads: a misspelt one would otherwise have no effect, unnoticed.

The known names are in data/setting_names.txt, which `python -m tests.test_docs` writes from all settings: the
service and the trainer know nothing of each other's.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.resources import files

from pydantic_settings import BaseSettings, DotEnvSettingsSource

PREFIX = "METARM_"
REPORTED = "METARM_NAMES_REPORTED"  # `metarm up` sets it for its children: it has reported them all
SHOWN_CHARS = 60


def unknown_settings() -> list[str]:
    """A sentence for each METARM_ name of the environment and of .env that nothing reads, with the nearest
    known name and without values. None in the children of `metarm up`. Case does not matter."""
    if REPORTED in os.environ:
        return []
    given = dict.fromkeys(os.environ, "the environment") | dict.fromkeys(_dotenv_names(), ".env")
    found = {name.upper(): where for name, where in given.items() if name.upper().startswith(PREFIX)}
    known = known_names()
    return [_sentence(name, where, known) for name, where in sorted(found.items()) if name not in known]


def known_names() -> list[str]:
    return (files("metarm") / "data" / "setting_names.txt").read_text().split()


def print_unknown_settings(command: str) -> None:
    """Print them on stderr: for a command without a log."""
    for sentence in unknown_settings():
        print(f"{command}: {sentence}", file=sys.stderr)


def _dotenv_names() -> Iterable[str]:
    try:
        return DotEnvSettingsSource(BaseSettings, env_file=".env").env_vars
    except (OSError, UnicodeDecodeError):
        return ()  # reading the settings reports it


def _sentence(name: str, where: str, known: list[str]) -> str:
    shown = name if len(name) <= SHOWN_CHARS else f"{name[:SHOWN_CHARS]}…"
    shown = shown if shown.isprintable() else ascii(shown)
    return f"{shown} in {where} is no setting and has no effect{''.join(_hint(name[:SHOWN_CHARS], known))}"


def _hint(name: str, known: list[str]) -> Iterator[str]:
    bare = [other.removeprefix(PREFIX) for other in known]
    for near in difflib.get_close_matches(name.removeprefix(PREFIX), bare, n=1):
        yield f": did you mean {PREFIX}{near}?"
