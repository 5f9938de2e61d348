"""Decides whether W&B can be online, without a prompt and without importing W&B."""

from __future__ import annotations

import configparser
import contextlib
import netrc
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

Mode = Literal["auto", "online", "offline", "disabled"]
CONNECT_SECONDS = 5.0


def choose_mode(mode: str, environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Decides between online, offline and disabled, without a prompt and without the network.

    Args:
        mode: As in :class:`WandbConfig`.
        environment: Environment variables; this process's by default.

    Returns:
        The mode and the reason, worded to follow "because".
    """
    environment = os.environ if environment is None else environment
    why = "asked for"
    if mode == "auto":
        mode = environment.get("WANDB_MODE", "").lower() or "auto"
        why = f"WANDB_MODE={mode}"
        mode = {"dryrun": "offline", "run": "online", "shared": "online"}.get(mode, mode)
    if mode in ("disabled", "offline"):
        return mode, why
    found = _login(environment)
    if found is None:
        return "offline", "not logged in (wandb login)"
    return "online", found


def _settings(environment: Mapping[str, str]) -> tuple[str, bool]:
    """Returns the server's address, and whether W&B's settings files have a key for it."""
    settings = configparser.ConfigParser(interpolation=None)
    folder = Path(environment.get("WANDB_CONFIG_DIR") or _home(environment) / ".config" / "wandb")
    with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
        settings.read([folder / "settings", Path("wandb") / "settings"], encoding="utf-8")
    url = environment.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback="https://api.wandb.ai")
    return str(url), bool(settings.get("default", "api_key", fallback=None))


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path.home())


def _login(environment: Mapping[str, str]) -> str | None:
    """Returns where a login was found, ``None`` without one."""
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        if environment.get(name):
            return f"{name} is set"
    url, has_key = _settings(environment)
    if has_key:
        return "logged in by W&B's settings file"
    given, home = environment.get("NETRC"), _home(environment)
    for path in [Path(given).expanduser()] if given else [home / ".netrc", home / "_netrc"]:
        try:
            if path.is_file() and netrc.netrc(str(path)).authenticators(str(urlparse(url).hostname)):
                return f"logged in by {path}"
        except (netrc.NetrcParseError, OSError):
            continue
    return None


def unreachable(environment: Mapping[str, str] | None = None) -> str | None:
    """Returns why the W&B server, or the proxy, cannot be reached; ``None`` if it can.

    Older versions of W&B try for minutes, whatever timeout is set.
    """
    url, _ = _settings(os.environ if environment is None else environment)
    server = urlparse(url)
    if server.hostname and not proxy_bypass(server.hostname):
        server = urlparse(getproxies().get(server.scheme, url))
    try:
        port = server.port or (80 if server.scheme == "http" else 443)
        with socket.create_connection((server.hostname or "", port), timeout=CONNECT_SECONDS):
            return None
    except (OSError, ValueError) as error:
        return f"{server.hostname}: {error}"
