"""mepd.conf(5): the INI file and what it includes, in supervisord's manner.

The reading is done by configparser; this module expands, converts and checks. Every
error names the file, the line and, for an unknown name, the nearest known one.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
import shlex
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepd.config.settings import (
    ControlSection,
    EndpointSection,
    MepdSection,
    ProgramSection,
    ServiceSection,
    Settings,
)
from mepd.errors import ConfigError

_FILE_MAX = 1024 * 1024
_EXPANSION = re.compile(r"%\(([^)]*)\)s|%%|%")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_SIZES = {"KB": 1024, "MB": 1024**2, "GB": 1024**3}
_LEVELS = ("debug", "info", "warning", "error", "critical")


@dataclass(frozen=True)
class _Value:
    """One value and where it stands; ``here`` is the folder of its file."""

    text: str
    path: Path
    line: int
    key: str

    @property
    def here(self) -> Path:
        return self.path.parent

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.key}: {message}", str(self.path), self.line)


_Section = dict[str, _Value]
_Convert = Callable[[_Value], Any]


# --- converters --------------------------------------------------------------------------
def _text(value: _Value) -> str:
    return value.text


def _boolean(value: _Value) -> bool:
    word = value.text.lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise value.error(f"{value.text!r} is neither true nor false")


def _integer(value: _Value) -> int:
    if not re.fullmatch(r"\d{1,9}", value.text, re.ASCII):
        raise value.error(f"{value.text!r} is no whole number")
    return int(value.text)


def _seconds(value: _Value) -> float:
    if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", value.text, re.ASCII):
        raise value.error(f"{value.text!r} is no number of seconds")
    return float(value.text)


def _size(value: _Value) -> int:
    match = re.fullmatch(r"(\d{1,12})\s*([KMG]B)?", value.text.upper(), re.ASCII)
    if match is None:
        raise value.error(f"{value.text!r} is no size such as 50MB")
    return int(match[1]) * _SIZES.get(match[2], 1)


def _mode(value: _Value) -> int:
    if not re.fullmatch(r"(0o)?[0-7]{3,4}", value.text):
        raise value.error(f"{value.text!r} is no octal mode such as 0660")
    return int(value.text.removeprefix("0o"), 8)


def _path(value: _Value) -> Path:
    if not value.text:
        raise value.error("is empty")
    return Path(os.path.normpath(value.here / Path(value.text).expanduser()))


def _level(value: _Value) -> str:
    if value.text.lower() not in _LEVELS:
        raise value.error(f"{value.text!r} is not one of {', '.join(_LEVELS)}")
    return value.text.lower()


def _names(value: _Value) -> tuple[str, ...]:
    return tuple(n for n in re.split(r"[,\s]+", value.text) if n)


def _command(value: _Value) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(value.text))
    except ValueError as e:
        raise value.error(str(e)) from None
    if not words:
        raise value.error("is empty")
    return words


def _environment(value: _Value) -> tuple[tuple[str, str], ...]:
    """``A="x",B="y"``: quoted values may hold commas."""
    lexer = shlex.shlex(value.text, posix=True, punctuation_chars=",")
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = [w for w in lexer if set(w) != {","}]
    except ValueError as e:
        raise value.error(str(e)) from None
    pairs = []
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise value.error(f"{word!r} is not of the form NAME=\"value\"")
        pairs.append((name, text))
    return tuple(pairs)


def _url(value: _Value) -> str:
    if not re.fullmatch(r"https?://[^\s/@]+(/\S*)?", value.text):
        raise value.error("is no http or https URL without user information")
    return value.text.rstrip("/")


def _signal(value: _Value) -> str:
    name = value.text.upper().removeprefix("SIG")
    if f"SIG{name}" not in signal.Signals.__members__:
        raise value.error(f"{value.text!r} is no signal")
    return name


def _optional_integer(value: _Value) -> int | None:
    return _integer(value) if value.text else None


_MEPD: dict[str, _Convert] = {
    "logfile": _path,
    "logfile_maxbytes": _size,
    "logfile_backups": _integer,
    "loglevel": _level,
    "pidfile": _path,
    "user": _text,
    "stopwaitsecs": _seconds,
    "max_ueps": _integer,
    "max_ueps_per_user": _integer,
    "start_timeout": _seconds,
    "min_uid": _optional_integer,
    "deny_users": _names,
}
_CONTROL: dict[str, _Convert] = {"file": _path, "chmod": _mode, "chown": _text}
_SERVICE: dict[str, _Convert] = {"url": _url, "credentials": _path}
_ENDPOINT: dict[str, _Convert] = {"directory": _path, "autostart": _boolean}
_PROGRAM: dict[str, _Convert] = {
    "command": _command,
    "user": _text,
    "autostart": _boolean,
    "autorestart": _boolean,
    "priority": _integer,
    "environment": _environment,
    "directory": _path,
    "startsecs": _seconds,
    "startretries": _integer,
    "stopsignal": _signal,
    "stopwaitsecs": _seconds,
    "stdout_logfile": _path,
}
_INCLUDE: dict[str, _Convert] = {"files": _text}
_PLAIN = {"mepd": _MEPD, "control": _CONTROL, "service": _SERVICE, "include": _INCLUDE}
_NAMED = {"endpoint": _ENDPOINT, "program": _PROGRAM}


# --- reading -----------------------------------------------------------------------------
@dataclass
class _Collected:
    """Sections by name from all files, and the files themselves."""

    sections: dict[str, _Section] = field(default_factory=dict)
    places: dict[str, tuple[Path, int]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


def _lines_of(text: str) -> dict[tuple[str, str], int]:
    """Line numbers by (section, key); ('section', '') for the header itself."""
    found: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\[([^]]+)\]", line)
        if header:
            section = header[1]
            found.setdefault((section, ""), number)
        elif line[:1] not in ("", " ", "\t", "#", ";"):
            key = re.split(r"[=:]", line, maxsplit=1)[0].strip().lower()
            found.setdefault((section, key), number)
    return found


def _parse(path: Path) -> tuple[configparser.RawConfigParser, dict[tuple[str, str], int]]:
    data = path.read_bytes()
    if len(data) > _FILE_MAX:
        raise ConfigError(f"larger than {_FILE_MAX} bytes", str(path))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError("not UTF-8", str(path), data[: e.start].count(b"\n") + 1) from None
    parser = configparser.RawConfigParser(
        strict=True, inline_comment_prefixes=(";",), default_section="\0", interpolation=None
    )
    try:
        parser.read_string(text)
    except configparser.ParsingError as e:
        line = e.errors[0][0] if e.errors else 0
        raise ConfigError("neither a [section] nor key = value", str(path), line) from None
    except configparser.Error as e:
        line = getattr(e, "lineno", 0) or 0
        reason = e.message.replace("\n", " ").partition("]: ")[2] or e.message.replace("\n", " ")
        raise ConfigError(reason, str(path), line) from None
    return parser, _lines_of(text)


def _expand(text: str, path: Path, line: int, key: str, environ: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if match[0] == "%%":
            return "%"
        if name is None:
            raise ConfigError(f"{key}: a lone % must be written %%", str(path), line)
        if name == "here":
            return str(path.parent)
        if name.startswith("ENV_") and name[4:] in environ:
            return environ[name[4:]]
        raise ConfigError(f"{key}: %({name})s is not known", str(path), line)

    return _EXPANSION.sub(value, text)


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"; the nearest known is {close[0]!r}" if close else ""


def _schema_of(name: str, path: Path, line: int) -> dict[str, _Convert]:
    kind, colon, label = name.partition(":")
    if not colon and name in _PLAIN:
        return _PLAIN[name]
    if colon and kind in _NAMED:
        if _NAME.fullmatch(label) is None:
            raise ConfigError(f"[{name}]: {label!r} is not a plain name", str(path), line)
        return _NAMED[kind]
    known = {**_PLAIN, **{f"{k}:NAME": None for k in _NAMED}}
    raise ConfigError(f"unknown section [{name}]{_nearest(name, known)}", str(path), line)


def _read(path: Path, collected: _Collected, environ: Mapping[str, str], nested: bool) -> None:
    parser, lines = _parse(path)
    collected.files.append(path)
    includes: list[_Value] = []
    for name in parser.sections():
        line = lines.get((name, ""), 0)
        schema = _schema_of(name, path, line)
        if name in collected.places and name != "include":
            other, at = collected.places[name]
            raise ConfigError(f"[{name}] stands in {other}:{at}, too", str(path), line)
        collected.places[name] = (path, line)
        section: _Section = {}
        for key, raw in parser.items(name):
            at = lines.get((name, key), line)
            if key not in schema:
                raise ConfigError(
                    f"unknown key {key!r} in [{name}]{_nearest(key, schema)}", str(path), at
                )
            section[key] = _Value(_expand(raw or "", path, at, key, environ), path, at, key)
        if name != "include":
            collected.sections[name] = section
        elif "files" in section:
            includes.append(section["files"])
    for value in includes:
        if nested:
            raise value.error("an included file may not include others")
        for pattern in value.text.split():
            for found in sorted(value.here.glob(pattern) if not pattern.startswith("/")
                                else Path("/").glob(pattern[1:])):
                _read(found, collected, environ, nested=True)


def _values(section: _Section, schema: Mapping[str, _Convert]) -> dict[str, Any]:
    return {key: schema[key](value) for key, value in section.items()}


def _required(section: _Section, key: str, name: str, place: tuple[Path, int]) -> None:
    if key not in section:
        raise ConfigError(f"[{name}] needs {key}", str(place[0]), place[1])


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read ``path`` and what it includes. Raises ConfigError or OSError."""
    collected = _Collected()
    _read(path, collected, environ, nested=False)
    sections = collected.sections
    endpoints, programs = [], []
    for name, section in sections.items():
        kind, _, label = name.partition(":")
        if kind == "endpoint":
            _required(section, "directory", name, collected.places[name])
            endpoints.append(EndpointSection(name=label, **_values(section, _ENDPOINT)))
        elif kind == "program":
            _required(section, "command", name, collected.places[name])
            programs.append(ProgramSection(name=label, **_values(section, _PROGRAM)))
    return Settings(
        path=path,
        mepd=MepdSection(**_values(sections.get("mepd", {}), _MEPD)),
        control=ControlSection(**_values(sections.get("control", {}), _CONTROL)),
        service=ServiceSection(**_values(sections.get("service", {}), _SERVICE)),
        endpoints=tuple(endpoints),
        programs=tuple(programs),
        files=tuple(collected.files),
    )
