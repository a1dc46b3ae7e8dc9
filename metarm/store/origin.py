"""What a version was made of, as its manifest records it: what its children and every server keep to.

| recorded                                      | a child            | a server                |
| --------------------------------------------- | ------------------ | ----------------------- |
| `encoding`: limit of tokens, date, text rules | keeps it           | keeps it                |
| `preferences`: file, digest, split            | keeps them, unless |                         |
|                                               | others are named   |                         |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from metarm.errors import ConfigurationError, InvalidVersionError
from metarm.store.versions import VersionStore

DEMO_SOURCE = "packaged MiniLM-L6-v2"
DEFAULT_MAX_TOKENS = 512  # of a first version; its tokenizer's and network's own limits apply too


@dataclass(frozen=True, slots=True)
class TextRules:
    """What decides the tokens of a text, apart from the tokenizer's files and the limit of tokens.

    `template_date` is the day that a chat template is told (midnight UTC); None: a template that asks for it is
    refused. `split_special_tokens`: prompts and responses are never read as control tokens.
    """

    template_date: date | None = None
    split_special_tokens: bool = False

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> TextRules:
        """The rules that a version was made with. A manifest without a date gives the day it was made.

        Raises InvalidVersionError.
        """
        encoding = manifest.get("encoding") or {}
        day = encoding.get("template_date") or str(manifest.get("created"))[:10]
        try:
            return cls(date.fromisoformat(day), encoding.get("split_special_tokens") is True)
        except (TypeError, ValueError) as error:
            raise InvalidVersionError(f"its manifest has the template_date {day!r}: {error}") from error


DEFAULT_RULES = TextRules()


def token_limit(manifest: Mapping[str, Any], asked: int | None) -> int:
    """The longest sequence that a version reads, in tokens. Raises InvalidVersionError if the setting `asked`
    (None: unset) is lower: the version would give other scores."""
    recorded = (manifest.get("encoding") or {}).get("max_tokens")
    if recorded is None:
        return asked or DEFAULT_MAX_TOKENS
    if asked is not None and asked < recorded:
        raise InvalidVersionError(
            f"{manifest.get('name')} reads up to {recorded} tokens, which its scores depend on, and "
            f"METARM_MAX_TOKENS is {asked}: unset it"
        )
    return int(recorded)


def _same(asked: object, recorded: object) -> bool:
    """Whether they are equal, or two names of one folder."""
    if asked == recorded:
        return True
    if not (isinstance(asked, str) and isinstance(recorded, str)):
        return False
    return Path(asked).is_dir() and Path(asked).resolve() == Path(recorded).resolve()


def check_origin(store: VersionStore, asked: Mapping[str, Any]) -> None:
    """Compare settings that are fixed when the first version is made with what the versions of `store` began
    with: `model`, `max_tokens` and the fields of TextRules; None: not asked. Raises ConfigurationError, and
    InvalidVersionError for an unreadable manifest."""
    names = store.names()
    if not names:
        return
    manifest = store.manifest(names[0])
    began = {"model": manifest.get("source"), **asdict(TextRules.of(manifest))}
    for name, value in began.items():
        if asked.get(name) is not None and not _same(asked[name], value):
            raise ConfigurationError(
                f"{store.root} holds versions that began with the {name} {value}, not {asked[name]}: "
                f"use another --data-dir, or leave METARM_{name.upper()} unset"
            )
    try:
        token_limit(manifest, asked.get("max_tokens"))
    except InvalidVersionError as error:
        raise ConfigurationError(f"{error.message}, or use another --data-dir") from error
