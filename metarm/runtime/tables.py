"""Tables on stdout: on a terminal fitted to its width, elsewhere one line for each row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

UNLIMITED = 1_000_000  # columns


def on_terminal() -> bool:
    return _console().is_terminal


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False, show_head: bool = True
) -> None:
    """Print aligned columns, to the right if they hold `numbers`. On a terminal, cells that do not fit
    continue on the next line."""
    console = _console()
    if not console.is_terminal:
        console.width = UNLIMITED
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=show_head)
    for name in head:
        table.add_column(name, overflow="fold", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*row)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """The rows as plain text for a report; columns `left` are aligned to the left, all others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)
