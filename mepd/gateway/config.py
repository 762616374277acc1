"""The gateway's configuration: one YAML file, described in mepd-gateway(8)."""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepd.config import safeyaml
from mepd.config.textfile import is_path
from mepd.errors import ConfigError
from mepd.gateway.login.config import (
    CLAIM_KEYS,
    OIDC_KEYS,
    OidcSettings,
    check_url,
    oidc_settings,
)
from mepd.gateway.names import PublicBroker

_LEVELS = ("debug", "info", "warning", "error")
_KEYS: dict[str, type | tuple[type, ...]] = {
    "listen": str,
    "tls_certificate": str,
    "tls_key": str,
    "database": str,
    "broker": dict,
    "log_level": str,
    "start_timeout": (int, float),
    "offline_patience": (int, float),
    "keep_results": (int, float),
    "max_waiting": int,
    "token_lifetime": (int, float),
    "body_max": int,
    "body_timeout": (int, float),
    "broker_auth_from": list,
    "public_url": str,
    "trusted_proxies": list,
    "refresh_lifetime": (int, float),
    "session_lifetime": (int, float),
    "password_login": bool,
    "oidc": dict,
    "requests_per_second": (int, float),
    "requests_burst": int,
    "payload_max": int,
    "bodies_max": int,
    "metrics_from": list,
}
_BROKER_KEYS: dict[str, type | tuple[type, ...]] = {
    "host": str,
    "port": int,
    "vhost": str,
    "credentials": str,
    "public_host": str,
    "public_port": int,
    "public_tls": bool,
}
_TIME_MAX = 1_000_000_000
"""31 years: a time that far ahead can still be told and reckoned with."""
_COUNT_MAX = 1_000_000_000_000
_PORT_MAX = 65535


@dataclass(frozen=True)
class Settings:
    """Times in seconds, sizes in bytes."""

    host: str
    port: int
    database: str
    broker_host: str
    broker_port: int
    broker_user: str
    broker_password: str = field(repr=False)
    public_broker: PublicBroker
    tls_certificate: str | None = None
    tls_key: str | None = None
    log_level: str = "info"
    start_timeout: float = 50.0
    offline_patience: float = 3600.0
    keep_results: float = 14 * 86400.0
    max_waiting: int = 1000
    token_lifetime: float = 48 * 3600.0
    body_max: int = 10 * 1024 * 1024
    body_timeout: float = 30.0
    broker_auth_from: tuple[str, ...] = ("127.0.0.1", "::1")
    public_url: str = "http://127.0.0.1:5000"
    trusted_proxies: tuple[str, ...] = ()
    refresh_lifetime: float = 180 * 86400.0
    session_lifetime: float = 12 * 3600.0
    password_login: bool = True
    oidc: OidcSettings | None = None
    requests_per_second: float = 200.0
    requests_burst: int = 1000
    payload_max: int = 5 * 1024 * 1024
    bodies_max: int = 100 * 1024 * 1024
    metrics_from: tuple[str, ...] = ("127.0.0.1", "::1")


def _most(key: str, kind: Any) -> int:
    """The largest number that a key may have."""
    if key in ("port", "public_port"):
        return _PORT_MAX
    return _COUNT_MAX if kind is int else _TIME_MAX


def _check_keys(
    values: dict[Any, Any], known: dict[str, Any], where: str, path: Path
) -> None:
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"unknown key {where}{key!s:.60}{hint}", str(path))
        wrong_bool = isinstance(value, bool) and known[key] is not bool
        if not isinstance(value, known[key]) or wrong_bool:
            raise ConfigError(f"{where}{key} has the wrong type", str(path))
        if isinstance(value, str) and not is_path(value):
            raise ConfigError(f"{where}{key} has a NUL", str(path))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            most = _most(key, known[key])
            if not 0 < value <= most:  # nor is NaN
                text = f"{where}{key} must be greater than 0, and at most {most:,}"
                raise ConfigError(text, str(path))


def _address(text: str, path: Path) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    number = int(port) if re.fullmatch("[0-9]{1,5}", port) else 0
    if not colon or not 0 < number <= _PORT_MAX:
        raise ConfigError(f"listen must be HOST:PORT, not {text[:80]!r}", str(path))
    return host.strip("[]") or "127.0.0.1", number


ACCOUNT_NAMES = ("username", "password")
CLIENT_NAMES = ("client_id", "client_secret")


def read_credentials(
    path: Path, names: tuple[str, str] = ACCOUNT_NAMES
) -> tuple[str, str]:
    """Two values of a JSON object: by default user and password of a broker's administrator.

    Raises ConfigError, also when others can read the file.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            value = json.load(file)
    except OSError as e:
        raise ConfigError(e.strerror or type(e).__name__, str(path)) from None
    except (ValueError, RecursionError):
        raise ConfigError("not JSON", str(path)) from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError("holds a password and is open to others; chmod 600", str(path))
    if not isinstance(value, dict) or not all(isinstance(value.get(n), str) for n in names):
        raise ConfigError(f"must be an object of {' and '.join(names)}", str(path))
    if not all(is_path(value[name]) for name in names):
        raise ConfigError("holds a NUL, or half a character", str(path))
    return value[names[0]], value[names[1]]


def load(path: Path) -> Settings:
    """Raises ConfigError that names the file and the key."""
    try:
        document = safeyaml.load(path.read_text("utf-8"), str(path))
    except OSError as e:
        raise ConfigError(e.strerror or type(e).__name__, str(path)) from None
    except UnicodeDecodeError:
        raise ConfigError("not UTF-8", str(path)) from None
    if not isinstance(document, dict):
        raise ConfigError("must be a mapping", str(path))
    _check_keys(document, _KEYS, "", path)
    broker = document.get("broker", {})
    _check_keys(broker, _BROKER_KEYS, "broker.", path)
    for key, where in (("database", document), ("credentials", broker)):
        if key not in where:
            raise ConfigError(f"{'broker.' if where is broker else ''}{key} is missing", str(path))
    level = document.get("log_level", "info")
    if level not in _LEVELS:
        raise ConfigError(f"log_level must be one of {', '.join(_LEVELS)}", str(path))
    return _settings(document, broker, path)


def _tls(document: dict[str, Any], host: str, path: Path) -> dict[str, str]:
    """Certificate and key; without them only the loopback is served, as tokens would be
    seen on the wire."""
    names = ("tls_certificate", "tls_key")
    given = {n: str(path.parent / document[n]) for n in names if n in document}
    if len(given) == 1:
        raise ConfigError("tls_certificate and tls_key go together", str(path))
    if not given and host not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(
            f"listen: {host} is not the loopback, so tls_certificate and tls_key are needed",
            str(path),
        )
    for file in given.values():
        if not os.access(file, os.R_OK):
            raise ConfigError(f"{file} cannot be read", str(path))
    return given


def _addresses(values: list[Any], key: str, path: Path) -> tuple[str, ...]:
    """IP addresses, as a connection's is written. A name or a network would fit none.

    Raises ConfigError.
    """
    found = []
    for value in values:
        try:
            found.append(str(ipaddress.ip_address(str(value))))
        except ValueError:
            text = f"{key} must be a list of IP addresses; {str(value)[:60]!r} is none"
            raise ConfigError(text, str(path)) from None
    return tuple(found)


def _public_url(document: dict[str, Any], host: str, port: int, path: Path) -> str:
    """Where browsers and clients find the gateway."""
    if "public_url" in document:
        return check_url(document["public_url"], "public_url", path)
    name = socket.getfqdn() if host in ("0.0.0.0", "::") else host
    shown = f"[{name}]" if ":" in name else name
    return f"{'https' if 'tls_key' in document else 'http'}://{shown}:{port}"


def _login(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """How people log in: by password, unless there is an external provider."""
    oidc = document.get("oidc")
    if oidc is None:
        if document.get("password_login") is False:
            raise ConfigError("without password_login there must be oidc", str(path))
        return {}
    _check_keys(oidc, OIDC_KEYS, "oidc.", path)
    _check_keys(oidc.get("claims", {}), CLAIM_KEYS, "oidc.claims.", path)
    if "credentials" not in oidc:
        raise ConfigError("oidc.credentials is missing", str(path))
    credentials = read_credentials(path.parent / oidc["credentials"], CLIENT_NAMES)
    return {
        "oidc": oidc_settings(oidc, credentials, path),
        "password_login": document.get("password_login", False),
    }


def _settings(document: dict[str, Any], broker: dict[str, Any], path: Path) -> Settings:
    host, port = _address(document.get("listen", "127.0.0.1:5000"), path)
    user, password = read_credentials(path.parent / broker["credentials"])
    broker_host, broker_port = broker.get("host", "127.0.0.1"), broker.get("port", 5672)
    optional: dict[str, Any] = {
        key: document[key]
        for key in (
            "log_level",
            "start_timeout",
            "offline_patience",
            "keep_results",
            "max_waiting",
            "token_lifetime",
            "refresh_lifetime",
            "session_lifetime",
            "body_max",
            "body_timeout",
            "requests_per_second",
            "requests_burst",
            "payload_max",
            "bodies_max",
        )
        if key in document
    }
    for key in ("broker_auth_from", "metrics_from", "trusted_proxies"):
        if key in document:
            optional[key] = _addresses(document[key], key, path)
    optional.update(_tls(document, host, path))
    optional.update(_login(document, path))
    optional["public_url"] = _public_url(document, host, port, path)
    return Settings(
        host=host,
        port=port,
        database=document["database"],
        broker_host=broker_host,
        broker_port=broker_port,
        broker_user=user,
        broker_password=password,
        public_broker=PublicBroker(
            broker.get("public_host", broker_host),
            broker.get("public_port", broker_port),
            broker.get("vhost", "/"),
            broker.get("public_tls", False),
        ),
        **optional,
    )
