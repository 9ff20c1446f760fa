"""Which server, and with which key: read from where the `fetchml` command reads it.

Weakest first: the profile that `fetchml up` wrote, the configuration file, environment variables, arguments.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from ._errors import ConfigurationError


class Rank(IntEnum):
    """Where a value came from: later ones win."""

    DEFAULT = 0
    PROFILE = 1
    FILE = 2
    ENVIRONMENT = 3
    ARGUMENT = 4


@dataclass(frozen=True)
class Settings:
    """A server and how to identify oneself to it."""

    url: str
    api_key: str = field(repr=False)


Found = tuple[str, Rank] | None


@dataclass
class _Layers:
    url: tuple[str, Rank] = ("http://127.0.0.1:9101", Rank.DEFAULT)
    api_key: Found = None
    key_file: Found = None

    def add(self, rank: Rank, values: Mapping[str, Any], origin: str) -> None:
        """Puts what `values` holds above what is there."""
        for name in ("url", "api_key", "key_file"):
            value = values.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise ConfigurationError(f"{origin}: {name} must be text")
            setattr(self, name, (value, rank))


def load(url: str | None = None, api_key: str | None = None, key_file: str | None = None) -> Settings:
    """The settings, with the arguments on top."""
    layers = _Layers()
    profile_url = _add_profile(layers)
    _add_file(layers)
    names = {"url": "FETCHML_URL", "api_key": "FETCHML_API_KEY", "key_file": "FETCHML_KEY_FILE"}
    layers.add(Rank.ENVIRONMENT, {name: os.environ.get(variable) or None for name, variable in names.items()}, "")
    layers.add(Rank.ARGUMENT, {"url": url, "api_key": api_key, "key_file": key_file}, "an argument")

    address, url_rank = layers.url
    key, key_rank = _key(layers)
    # A key goes only to the server it was made by: an address from elsewhere does not get the profile's.
    if key is None or (key_rank is Rank.PROFILE and profile_url is not None and not same_server(profile_url, address)):
        raise _no_key(address, url_rank)
    return Settings(address.rstrip("/"), _checked(key.strip()))


def same_server(one: str, other: str) -> bool:
    """Whether two addresses mean the same server, by their words."""

    def clean(url: str) -> str:
        return url.strip().rstrip("/").replace("://localhost:", "://127.0.0.1:").lower()

    return clean(one) == clean(other)


def _add_profile(layers: _Layers) -> str | None:
    path = _config_dir() / "profile.toml"
    profile = _read(path)
    if profile is None:
        return None
    layers.add(Rank.PROFILE, profile, str(path))
    url = profile.get("url")
    return url if isinstance(url, str) else None


def _add_file(layers: _Layers) -> None:
    named = os.environ.get("FETCHML_CONFIG")
    path = Path(named) if named else _config_dir() / "config.toml"
    data = _read(path)
    if data is None and named:
        raise ConfigurationError(f"the configuration {path} (FETCHML_CONFIG) does not exist")
    client = (data or {}).get("client", {})
    layers.add(Rank.FILE, client if isinstance(client, dict) else {}, str(path))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        # Not the offending line: it may hold the key.
        reason = error.strerror if isinstance(error, OSError) else "it is not TOML"
        raise ConfigurationError(f"cannot read {path}: {reason}") from None


def _key(layers: _Layers) -> tuple[str | None, Rank]:
    key, file = layers.api_key, layers.key_file
    # Of a key and a file that holds one, the one set in the stronger place.
    if key is not None and (file is None or key[1] >= file[1]):
        return key
    if file is None:
        return None, Rank.DEFAULT
    try:
        text = Path(file[0]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            f"cannot read the key file {file[0]}: {reason}",
            hint="set FETCHML_API_KEY to the key itself, or name another file",
        ) from None
    if not text.strip():
        raise ConfigurationError(f"the key file {file[0]} is empty")
    return text, file[1]


def _checked(key: str) -> str:
    """The key, if it can be one; it is never shown."""
    characters = key.replace("_", "").replace("-", "")
    if not key.startswith("fml_") or key.count("_") < 2 or not (characters.isascii() and characters.isalnum()):
        raise ConfigurationError("the API key is not well formed", hint="keys look like fml_<id>_<secret>")
    return key


def _no_key(url: str, rank: Rank) -> ConfigurationError:
    if rank is Rank.DEFAULT:
        hint = "start one here with `fetchml up`, or set FETCHML_URL and FETCHML_API_KEY to use another"
        return ConfigurationError("no server is configured", hint=hint)
    hint = "set FETCHML_API_KEY, or FETCHML_KEY_FILE to a file that holds the key"
    return ConfigurationError(f"no API key for the server at {url}", hint=hint)


def _config_dir() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    # A relative value counts as unset, as the specification says.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "fetchml"
