"""What every process is set by: the base of the settings classes. No torch.

A setting comes from the command line (`--batch-tokens 512`), else the environment
(`METARM_BATCH_TOKENS`), else a `.env` file, else its default. Its description is its help.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from metarm.errors import ConfigurationError
from metarm.store.versions import VersionStore


class ProcessSettings(BaseSettings):
    """Settings that service, trainer and launcher share."""

    model_config = SettingsConfigDict(
        env_prefix="METARM_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    data_dir: Path = Field(Path("data"), description="Folder of everything kept: versions/, redis/.")
    redis_url: str | None = Field(
        None,
        validation_alias=AliasChoices("METARM_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey to use, 6.2 or later. `metarm up` starts an embedded one where unset.",
    )
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: Literal["console", "json"] = Field(
        "console", description="console: log lines for people. json: an object a line, as containers want it."
    )
    max_tokens: int = Field(
        512,
        ge=8,
        description="Longest sequence in tokens, special tokens included; less where the model allows less.",
    )

    @property
    def store(self) -> VersionStore:
        return VersionStore(self.data_dir.absolute() / "versions")

    @property
    def required_redis_url(self) -> str:
        """The Redis to connect to. Raises ConfigurationError where none is set."""
        if self.redis_url is None:
            raise ConfigurationError("no Redis is set: set REDIS_URL, or start everything with `metarm up`")
        return self.redis_url

    @property
    def secrets(self) -> list[str]:
        """What must not be shown: every SecretStr, and the password in `redis_url`, as written and decoded."""
        values = [value for name in type(self).model_fields for value in _each(getattr(self, name))]
        secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        password = urlsplit(self.redis_url or "").password
        return [*secrets, *([password, unquote(password)] if password else [])]

    @classmethod
    def from_command_line(cls, command: str, arguments: Sequence[str]) -> Self:
        """Read the settings of `command`; print help or say what is wrong and exit."""
        try:
            return cls(
                _cli_parse_args=list(arguments),
                _cli_prog_name=command,
            )
        except (ValidationError, SettingsError) as error:
            sys.exit(f"{command}: {_plain(error)}")


class RetentionSettings(ProcessSettings):
    """How many versions a store keeps: for the trainer and for `metarm versions prune`."""

    keep_versions: int = Field(
        10,
        ge=1,
        description="Versions kept on disk: the newest. The current one and its parent, labelled and leased "
        "ones and the best stay beyond that; of the others the manifest alone stays.",
    )
    retention_grace_s: float = Field(
        3600, ge=0, description="A version younger than this stays on disk whatever its number."
    )


def _each(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _plain(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(": ".join([*(str(part) for part in e["loc"]), e["msg"]]) for e in error.errors())
