"""What the commands in this folder share: a parser that shows defaults, and exit statuses."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from metarm.errors import ConfigurationError, MetaRMError


def parser(command: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of `experiments/COMMAND`; its help shows the default of every option that has one."""
    return argparse.ArgumentParser(
        prog=f"experiments/{command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def run(
    parser: argparse.ArgumentParser,
    command: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
) -> int:
    """Parse `arguments` (None: those of this process), run `command` on them, and return the exit status.

    0: done. 1: the command raised a MetaRMError, a TimeoutError or an OSError; its message is one line on
    stderr. 130: interrupted. Arguments that argparse refuses exit with 2.
    """
    options = parser.parse_args(arguments)
    try:
        command(options)
    except (MetaRMError, TimeoutError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    return 0


def at_least(least: int, **options: int) -> None:
    """Raise ConfigurationError for the first option below `least`; names have underscores for hyphens."""
    for name, value in options.items():
        if value < least:
            raise ConfigurationError(f"--{name.replace('_', '-')} must be at least {least}")
