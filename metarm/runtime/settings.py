"""Base classes of every command line and of every process's settings. Imports no torch.

A setting comes from the command line (`--batch-tokens 512`), else the environment (`METARM_BATCH_TOKENS`), else
a `.env` file, else its default. Its description is its help text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Protocol, Self, cast
from urllib.parse import unquote, urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    get_subcommand,
)

from metarm.errors import ConfigurationError
from metarm.store.versions import VersionStore

RedisUrl = Annotated[
    str | None,
    Field(
        validation_alias=AliasChoices("METARM_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey server, 6.2 or later. Unset: `metarm up` starts an embedded one.",
    ),
]


class CommandLine(BaseSettings):
    """A command whose arguments are its fields, in kebab case."""

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

    @classmethod
    def parse(cls, command: str, arguments: Sequence[str]) -> Self:
        """Read the settings of `command`. Raises ConfigurationError for an invalid value; exits after
        `--help` and, with status 2, for an unknown argument."""
        try:
            return cls(_cli_parse_args=list(arguments), _cli_prog_name=command)
        except (ValidationError, SettingsError) as error:
            raise ConfigurationError(_message_of(error)) from error

    @classmethod
    def from_command_line(cls, command: str, arguments: Sequence[str]) -> Self:
        """`parse` for a program: an invalid value ends it with a message on stderr and status 1."""
        try:
            return cls.parse(command, arguments)
        except ConfigurationError as error:
            sys.exit(f"{command}: {error.message}")


class Arguments(CommandLine):
    """A command whose fields are set on the command line only, except those of ENVIRONMENT."""

    ENVIRONMENT: ClassVar[type[BaseSettings] | None] = None  # the fields that the environment may set too

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        from_environment = cls.ENVIRONMENT().model_dump(exclude_unset=True) if cls.ENVIRONMENT else {}
        return init_settings, InitSettingsSource(settings_cls, from_environment)


class Runnable(Protocol):
    def run(self) -> int:
        """Run the command; the exit status."""


class CommandGroup(Arguments):
    """A command that consists of subcommands."""

    @classmethod
    def run_from(cls, command: str, arguments: Sequence[str]) -> int:
        """Run the subcommand that `arguments` name. Returns its exit status, or 2 for wrong arguments."""
        try:
            chosen: object = cls.parse(command, arguments)
            while isinstance(chosen, CommandGroup):
                chosen = get_subcommand(chosen, cli_exit_on_error=False)
        except (ConfigurationError, SettingsError) as error:
            print(f"{command}: {error}", file=sys.stderr)
            return 2
        return cast("Runnable", chosen).run()


class StoreSettings(CommandLine):
    """Where the versions are."""

    data_dir: Path = Field(Path("data"), description="Folder of all persistent data: versions/, redis/.")

    @property
    def store(self) -> VersionStore:
        return VersionStore(self.data_dir.absolute() / "versions")


class ProcessSettings(StoreSettings):
    """Settings that the service, the trainer and the launcher share."""

    redis_url: RedisUrl = None
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_format: Literal["console", "json"] = Field(
        "console", description="console: readable lines. json: one JSON object a line, for log collectors."
    )
    max_tokens: int = Field(
        512,
        ge=8,
        description="Longest sequence in tokens, including special tokens; a model's own limit applies too.",
    )

    @property
    def required_redis_url(self) -> str:
        """The URL of the Redis to connect to. Raises ConfigurationError if none is set."""
        if self.redis_url is None:
            raise ConfigurationError("no Redis is set: set REDIS_URL, or start everything with `metarm up`")
        return self.redis_url

    @property
    def secrets(self) -> list[str]:
        """Values to mask in logs: every SecretStr, and the password in `redis_url`, as written and decoded."""
        values = [value for name in type(self).model_fields for value in _each(getattr(self, name))]
        secrets = [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        password = urlsplit(self.redis_url or "").password
        return [*secrets, *([password, unquote(password)] if password else [])]


class RetentionSettings(StoreSettings):
    """How many versions a store keeps: for the trainer and for `metarm versions prune`."""

    keep_versions: int = Field(
        10,
        ge=1,
        description="Newest versions to keep on disk. The current version, its parent, labelled and leased "
        "versions and the best one stay in addition; of all others only the manifest stays.",
    )
    retention_grace_s: float = Field(
        3600, ge=0, description="A version younger than this stays on disk, whatever its number."
    )


def _each(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _message_of(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return str(error)
    return "; ".join(": ".join([*(str(part) for part in e["loc"]), e["msg"]]) for e in error.errors())
