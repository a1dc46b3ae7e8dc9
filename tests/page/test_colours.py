"""Text on its ground has the contrast that WCAG 2 AA asks for, in both themes."""

from __future__ import annotations

import re

import pytest

from service.http.routes.page import FOLDER

THEMES = re.split(r"\n@media|\n:root\[data", (FOLDER / "theme.css").read_text())
TEXT = ["text", "muted", "accent"]
PAIRS = [
    *((name, ground) for name in TEXT for ground in ("ground", "surface")),
    *((name, f"{name}-ground") for name in ("good", "warn", "bad")),
    ("bad", "surface"),
    ("on-accent", "accent"),
]


def colours(theme: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", theme))


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES, ids=["light", "dark by the system", "dark by choice"])
def test_text_can_be_read_and_lines_can_be_told_from_their_ground(theme: str) -> None:
    known = colours(theme)
    poor = {pair: contrast(*(known[name] for name in pair)) for pair in PAIRS}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}
    lines = {f"series-{number}": contrast(known[f"series-{number}"], known["surface"]) for number in range(6)}
    assert {name: ratio for name, ratio in lines.items() if ratio < 3} == {}


def test_the_dark_theme_is_the_same_by_the_system_and_by_choice() -> None:
    assert colours(THEMES[1]) == colours(THEMES[2])
    assert colours(THEMES[0]).keys() == colours(THEMES[1]).keys()
