"""Types of settings whose values are checked: keys, URLs, addresses. Errors show no secret."""

from __future__ import annotations

import logging
from ipaddress import IPv6Address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationInfo

from metarm import api_keys
from metarm.runtime.addresses import without_brackets


def _usable_key(key: SecretStr, info: ValidationInfo) -> SecretStr:
    fault = api_keys.fault_of(key.get_secret_value())
    if fault is not None:
        raise ValueError(f"a key of METARM_{str(info.field_name).upper()} {fault}: no client could send it")
    return key


def _usable_url(url: str | None) -> str | None:
    """Of the value no part is in an error: it may hold a password."""
    if url is None:
        return None
    if not url.isprintable():
        raise ValueError("the URL has control characters")
    secret = url.rpartition("@")[0] if url.startswith("unix://") else url  # a path may have any name
    if api_keys.UNEXPANDED.search(secret):
        raise ValueError("the URL has an unexpanded ${…}")
    try:
        parts = urlsplit(url)
        known, _ = parts.scheme in REDIS_SCHEMES, parts.port
    except ValueError:
        known = False
    if not known:
        raise ValueError(
            "this is no URL such as redis://:password@host:6379/0; write special characters of the password as "
            "%40 and the like"
        )
    return url


def _usable_host(host: str) -> str:
    host = without_brackets(host)
    if not host or not host.isprintable() or any(character.isspace() for character in host):
        raise ValueError("this is no address: it is empty, or has white space or control characters")
    if "/" in host or (":" in host and not _is_ipv6(host)):
        raise ValueError(
            f"{host!r} is no address: leave out the scheme and the port, which has its own setting"
        )
    return host


def _is_ipv6(host: str) -> bool:
    try:
        return IPv6Address(host).version == 6
    except ValueError:
        return False


def log_level_named(name: str) -> str:
    if name.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"{name!r} is none of DEBUG, INFO, WARNING and ERROR")
    return name.upper()


ApiKey = Annotated[SecretStr, AfterValidator(_usable_key)]  # of a server
Host = Annotated[str, AfterValidator(_usable_host)]  # an address or a name, IPv6 with or without brackets
REDIS_SCHEMES = ("redis", "rediss", "unix")

RedisUrl = Annotated[
    str | None,
    AfterValidator(_usable_url),
    Field(
        validation_alias=AliasChoices("METARM_REDIS_URL", "REDIS_URL"),
        description="Redis or Valkey server, 6.2 or later. Unset: `metarm up` starts an embedded one.",
    ),
]
