"""Text has the contrast that WCAG 2 AA requires, in both themes, as a browser computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pytest
from playwright.sync_api import Browser

from service.http.routes.page import FOLDER

Rgb = tuple[int, int, int]
Theme = tuple[Literal["light", "dark"], str]  # the system's theme, and the page's choice ("" for none)
THEMES: list[Theme] = [("light", ""), ("dark", ""), ("light", "dark"), ("dark", "light")]
TEXT = ["text", "muted", "accent"]
LINES = [f"series-{number}" for number in range(6)]
PAIRS = [
    *((name, ground) for name in TEXT for ground in ("ground", "surface")),
    *((name, f"{name}-ground") for name in ("good", "warn", "bad")),
    ("bad", "surface"),
    ("on-accent", "accent"),
]
NAMES = sorted({*LINES, *(name for pair in PAIRS for name in pair)})
COMPUTED = """([theme, names]) => {
  if (theme) document.documentElement.dataset.theme = theme;
  return Object.fromEntries(names.map((name) => {
    document.body.style.color = `var(--${name}, transparent)`;
    return [name, getComputedStyle(document.body).color.match(/[\\d.]+/g).map(Number)];
  }));
}"""


def colours(browser: Browser, theme: Theme) -> Mapping[str, Rgb]:
    system, chosen = theme
    with browser.new_context(color_scheme=system) as context:
        page = context.new_page()
        page.add_style_tag(path=FOLDER / "theme.css")
        found: Mapping[str, Rgb] = page.evaluate(COMPUTED, [chosen, NAMES])
    assert [name for name, value in found.items() if len(value) != 3] == []  # an unknown colour is transparent
    return found


def luminance(colour: Rgb) -> float:
    """Relative luminance, as WCAG 2 defines it."""
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Rgb, other: Rgb) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_chart_lines_have_sufficient_contrast(browser: Browser, theme: Theme) -> None:
    known = colours(browser, theme)
    poor = {pair: contrast(*(known[name] for name in pair)) for pair in PAIRS}
    assert {pair: ratio for pair, ratio in poor.items() if ratio < 4.5} == {}
    lines = {name: contrast(known[name], known["surface"]) for name in LINES}
    assert {name: ratio for name, ratio in lines.items() if ratio < 3} == {}


def test_a_theme_has_the_same_colours_by_system_preference_and_by_choice(browser: Browser) -> None:
    light, dark, chosen_dark, chosen_light = (colours(browser, theme) for theme in THEMES)
    assert (chosen_light, chosen_dark) == (light, dark)
    assert light != dark
