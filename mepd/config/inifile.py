"""INI files and what they include: sections of values that know their place.

A value is expanded when it is converted: whoever needs one section, as mepctl does, needs
the environment of that section only.
"""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import glob
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mepd.config import textfile, values
from mepd.config.names import check_name, nearest
from mepd.config.values import Value
from mepd.errors import ConfigError

_EXPANSION = re.compile(r"%\(([^)]*)\)s|%%|%")
_LINES_MAX = 10_000
_VALUE_MAX = 64 * 1024

Section = dict[str, Value]
Keys = Mapping[str, Callable[[Value], Any]]


@dataclass(frozen=True)
class Layout:
    """Which sections there may be, with their keys: by name, and by kind for ``kind:NAME``."""

    plain: Mapping[str, Keys]
    named: Mapping[str, Keys]

    def keys_of(self, section: str, path: Path, line: int) -> Keys:
        """The keys of a section. Raises ConfigError for one that may not be."""
        kind, colon, label = section.partition(":")
        if not colon and section in self.plain:
            return self.plain[section]
        if colon and kind in self.named:
            check_name(label, str(path), line, kind)
            return self.named[kind]
        known = [*self.plain, *(f"{kind}:NAME" for kind in self.named)]
        raise ConfigError(
            f"unknown section [{section}]{nearest(section, known)}", str(path), line
        )


@dataclass
class Collected:
    """Sections by name from all files, where each begins, the files themselves with the
    version of each, and the absolute patterns of ``[include] files``."""

    sections: dict[str, Section] = field(default_factory=dict)
    places: dict[str, tuple[Path, int]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)


class _Parser(configparser.RawConfigParser):
    """Notes the line of each key: configparser itself forgets them.

    Its own expression for ``key = value`` takes time by the square of the white space in a
    line; this one means the same.
    """

    OPTCRE = re.compile(r"(?P<option>[^=:]*)(?P<vi>[=:])\s*(?P<value>.*)$")

    def __init__(self, strict: bool = True) -> None:
        super().__init__(
            strict=strict, inline_comment_prefixes=(";",), default_section="\0", interpolation=None
        )
        self.key_lines: list[int] = []
        self._now = 0

    def optionxform(self, optionstr: str) -> str:
        self.key_lines.append(self._now)
        return optionstr.lower()

    def read_numbered(self, text: str) -> None:
        def lines() -> Iterator[str]:
            for self._now, line in enumerate(text.split("\n"), start=1):
                yield line + "\n"

        self.read_file(lines())


def _check_text(text: str, path: Path) -> None:
    """Refuse what configparser would take for something else, or never come to an end of:
    each line that is in error costs it as much as all those before."""
    if text.count("\n") > _LINES_MAX:
        raise ConfigError(f"more than {_LINES_MAX} lines", str(path))
    bare = re.search(r"\r(?!\n)", text)
    if bare:
        line = text.count("\n", 0, bare.start()) + 1
        raise ConfigError("a carriage return that ends no line", str(path), line)


def _complaint(error: configparser.Error, path: Path) -> ConfigError:
    line = getattr(error, "lineno", 0) or 0
    if isinstance(error, configparser.MissingSectionHeaderError):
        return ConfigError("a key before the first [section]", str(path), line)
    if isinstance(error, configparser.ParsingError):
        line = error.errors[0][0] if error.errors else line
        return ConfigError("neither a [section] nor key = value", str(path), line)
    if isinstance(error, configparser.DuplicateSectionError):
        return ConfigError(f"[{error.section}] stands twice", str(path), line)
    if isinstance(error, configparser.DuplicateOptionError):
        return ConfigError(f"[{error.section}] {error.option} stands twice", str(path), line)
    return ConfigError(error.message.replace("\n", " ")[:200], str(path), line)


def _header_lines(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        header = re.match(r"\s*\[(.+)\]", line)
        if header:
            found.setdefault(header[1], number)
    return found


def _expand(raw: Value, environ: Mapping[str, str]) -> Value:
    """supervisord's expansions: ``%(here)s``, ``%(ENV_X)s``, and ``%%`` for a %."""

    def one(match: re.Match[str]) -> str:
        name = match[1]
        if match[0] == "%%":
            return "%"
        if name is None:
            raise raw.error("a lone % must be written %%")
        if name == "here":
            return str(raw.here)
        if name.startswith("ENV_") and name[4:] in environ:
            return environ[name[4:]]
        raise raw.error(f"%({name})s is not known")

    return dataclasses.replace(raw, text=_EXPANSION.sub(one, raw.text))


class _Reader:
    def __init__(self, layout: Layout, environ: Mapping[str, str]) -> None:
        self.found = Collected()
        self._layout = layout
        self._environ = environ

    def read(self, path: Path) -> list[Value]:
        """Take in one file; its ``[include] files``."""
        text = textfile.read_text(path)
        if text is None:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        _check_text(text, path)
        self.found.files.append(path)
        self.found.versions.append(textfile.version_of(text))
        parser = _Parser()
        try:
            parser.read_numbered(text)
        except configparser.Error as e:
            raise _complaint(e, path) from None
        headers, key_lines = _header_lines(text), iter(tuple(parser.key_lines))
        includes = []
        for name in parser.sections():
            section = self._section(name, path, headers.get(name, 0), parser, key_lines)
            if name != "include":
                self.found.sections[name] = section
            elif "files" in section:
                includes.append(section["files"])
        return includes

    def _section(
        self, name: str, path: Path, line: int, parser: _Parser, key_lines: Iterator[int]
    ) -> Section:
        keys = self._layout.keys_of(name, path, line)
        if name in self.found.sections:
            other, at = self.found.places[name]
            raise ConfigError(f"[{name}] stands in {other}:{at}, too", str(path), line)
        self.found.places[name] = (path, line)
        section: Section = {}
        # Sections and keys come in the order of the file: strict parsing allows no second
        # block of a section.
        for (key, raw), at in zip(parser.items(name), key_lines, strict=False):
            if key not in keys:
                message = f"unknown key {key!r} in [{name}]{nearest(key, keys)}"
                raise ConfigError(message, str(path), at)
            if len(raw) > _VALUE_MAX:
                message = f"[{name}] {key}: longer than {_VALUE_MAX} characters"
                raise ConfigError(message, str(path), at)
            section[key] = Value(raw, path, at, f"[{name}] {key}")
        return section

    def include(self, value: Value) -> None:
        """Take in what a ``files`` key names, each folder's matches sorted."""
        for pattern in _expand(value, self._environ).text.split():
            self.found.patterns.append(str(value.here / pattern))
            matches = sorted(glob.glob(pattern, root_dir=value.here))
            if not matches and not glob.has_magic(pattern):
                raise value.error(f"{pattern} does not exist")
            for match in matches:
                path = value.here / match
                if path in self.found.files:
                    continue
                for nested in self.read(path):
                    raise nested.error("an included file may not include others")


def read(path: Path, layout: Layout, environ: Mapping[str, str]) -> Collected:
    """``path`` and what it includes. Raises ConfigError or OSError."""
    reader = _Reader(layout, environ)
    for value in reader.read(path):
        reader.include(value)
    return reader.found


def salvage(path: Path, section: str, keys: Keys) -> Section:
    """A section of ``path`` alone, though there may be errors elsewhere in the file.

    Raises ConfigError, also for an error in that section, or OSError.
    """
    parser = _Parser(strict=False)
    text = textfile.read_text(path) or ""
    _check_text(text, path)
    with contextlib.suppress(configparser.Error):  # raised when all else has been read
        parser.read_numbered(text)
    found = dict(parser.items(section)) if parser.has_section(section) else {}
    for key in found.keys() - keys.keys():
        raise ConfigError(f"unknown key {key!r} in [{section}]{nearest(key, keys)}", str(path))
    return {key: Value(raw, path, 0, f"[{section}] {key}") for key, raw in found.items()}


def convert(section: Section, keys: Keys, environ: Mapping[str, str]) -> dict[str, Any]:
    """A section's values by key. Raises ConfigError."""
    return {key: keys[key](_expand(value, environ)) for key, value in section.items()}


INCLUDE: Keys = {"files": values.text}
