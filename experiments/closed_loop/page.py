"""One self-contained HTML page: pictures inside, no scripts, light or dark as the reader's system."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

from experiments.closed_loop.claims import Claim, claims
from experiments.closed_loop.comparisons import TIE_BAND
from experiments.closed_loop.intervals import FEWEST_SEEDS
from experiments.closed_loop.pictures import Picture
from experiments.closed_loop.records import Study
from experiments.closed_loop.tables import OPPONENTS, arm_rows, percent, win_rows

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fdfdfb; --line: #d5d5d0; --soft: #666;
  --yes: #1d7a34; --no: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e3; --paper: #191a1c; --line: #3b3d41;
  --soft: #a0a0a0; --yes: #6fce86; --no: #ff8a80; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p, figcaption { max-width: 48rem; } figcaption, .soft { color: var(--soft); }
figure { margin: 1rem 0; } img { max-width: 100%; background: #fff; border-radius: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
.yes { color: var(--yes); font-weight: 600; } .no { color: var(--no); font-weight: 600; }
"""


def page(study: Study, pictures: Sequence[Picture]) -> str:
    """The whole page."""
    seeds = study.seeds
    about = (
        f"{len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), {len(study.arms)} arms, {study.mode}; "
        f"{study.plan['rounds']} rounds of {study.plan['steps']} policy updates. "
        f"MetaRM Server {study.code_version}."
    )
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><title>MetaRM in the closed loop</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}</style></head><body>",
            "<h1>MetaRM in the closed loop</h1>",
            f"<p>{escape(about)} docs/evidence/closed_loop.md defines the figures.</p>",
            "<h2>Claims</h2>",
            "<p>95% bootstrap intervals over seeds, paired. "
            f"Under {FEWEST_SEEDS} seeds every answer is unclear.</p>",
            _claims_table(claims(study)),
            *(_figure(picture) for picture in pictures),
            "<h2>Every retraining arm against vanilla</h2>",
            "<p>Paired differences; of the spread ratio, the quotient.</p>",
            _table(*arm_rows(study)),
            "<h2>Win / tie / lose</h2>",
            f"<p>Percent, by gold, on the same held-out prompts; a tie is within {TIE_BAND} points. Best of "
            f"{study.plan['best_of']}: of that many initial responses, by the first version.</p>",
            _wins_table(study),
            "</body></html>",
            "",
        ]
    )


def _figure(picture: Picture) -> str:
    data = b64encode(picture.png).decode()
    return (
        f"<h2>{escape(picture.title)}</h2><figure>"
        f'<img alt="{escape(picture.title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(picture.says)}</figcaption></figure>"
    )


def _claims_table(found: Sequence[Claim]) -> str:
    rows = []
    for claim in found:
        for number, part in enumerate(claim.parts):
            first = number == 0
            rows.append(
                "<tr>"
                + _cell(claim.name if first else "")
                + _cell(claim.statement if first else "")
                + _cell(claim.arm if first else "")
                + (f'<td class="{claim.answer}">{claim.answer}</td>' if first else "<td></td>")
                + _cell(str(part.figure), number=True)
                + _cell(part.says)
                + "</tr>"
            )
    head = "".join(f"<th>{name}</th>" for name in ("", "claim", "arm", "answer", "figure [95%]", "of"))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _wins_table(study: Study) -> str:
    rows = [
        [arm, str(round_), *(percent(outcomes.get(name)) for name in OPPONENTS)]
        for arm, round_, outcomes in win_rows(study)
    ]
    return _table(["arm", "round", *(f"vs {name}" for name in OPPONENTS)], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th class="{"number" if i else ""}">{escape(name)}</th>' for i, name in enumerate(heads))
    body = "".join(
        "<tr>" + "".join(_cell(cell, number=i > 0) for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _cell(text: str, *, number: bool = False) -> str:
    return f'<td class="number">{escape(text)}</td>' if number else f"<td>{escape(text)}</td>"
