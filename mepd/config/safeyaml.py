"""YAML of bounded size, for processes that a file must not be able to stall or crash.

Depth and expansion are measured on the parser's events first: libyaml's composer recurses
without a limit and takes the whole process down at some ten thousand levels. So are numbers,
of which YAML has some that cost the square of their length (``1:1:1:...``), and directives,
which libyaml compares each with all others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from mepd.errors import ConfigError

DEPTH_MAX = 64
NODES_MAX = 20_000
NUMBER_MAX = 256
"""Characters of a number; one of base 60 that is shorter is a float of sensible size."""
DIRECTIVES_MAX = 100

_NUMBER = re.compile(r"[-+]?(?:0x[0-9a-f_]+|0b[01_]+|[0-9_:.]+(?:e[-+]?[0-9]+)?)", re.I)
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
_NO_MAPPING = "is no mapping of names to values"

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Meter:
    """Counts values as they will be once every alias is followed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._anchors: dict[str, int] = {}
        self._open: list[tuple[str | None, int]] = []
        self._total = 0

    def count(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise ConfigError("an alias that contains itself", self._name, line)
            self._total += self._anchors[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            self._total += 1
            if len(event.value) > NUMBER_MAX and _is_number(event):
                raise ConfigError(f"a number of {len(event.value)} characters", self._name, line)
            if event.anchor:
                self._anchors[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self._total))
            self._total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor:
                self._anchors[anchor] = self._total - before
        if len(self._open) > DEPTH_MAX:
            raise ConfigError("nested too deeply", self._name, line)
        if self._total > NODES_MAX:
            raise ConfigError(f"more than {NODES_MAX} values", self._name, line)


def _is_number(event: yaml.ScalarEvent) -> bool:
    """Whether the loader could take a scalar for a number."""
    plain = event.tag is None and event.implicit[0]
    return event.tag in _NUMBERS or (plain and _NUMBER.fullmatch(event.value) is not None)


def load(text: str, name: str) -> Any:
    """The one document of the file called ``name``, in plain values; None if it is empty.

    Raises ConfigError with file, line and reason.
    """
    meter = _Meter(name)
    if text.startswith("%") + text.count("\n%") > DIRECTIVES_MAX:
        raise ConfigError(f"more than {DIRECTIVES_MAX} directives", name)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            meter.count(event)
        return yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        reason = getattr(e, "problem", None) or getattr(e, "reason", None) or "not YAML"
        raise ConfigError(str(reason)[:200], name, mark.line + 1 if mark else 0) from None
    except (ValueError, ArithmeticError, LookupError, AttributeError) as e:
        # such as a date of the 31st of February; the others are what PyYAML's constructors
        # run into where a tag says what a value is not
        raise ConfigError(f"a value that is none: {e}"[:200], name) from None


@dataclass(frozen=True)
class Scalar:
    """From where to where a scalar of the text goes; ``style`` is its quote, or one of
    ``|``, ``>`` and '' for none."""

    start: int
    end: int
    style: str


def scalars(text: str) -> list[Scalar]:
    """The scalars of a text that :func:`load` has loaded, in order."""
    mark = text.startswith("\ufeff")  # libyaml does not count it
    return [
        Scalar(e.start_mark.index + mark, e.end_mark.index + mark, e.style or "")
        for e in yaml.parse(text, Loader=_LOADER)
        if isinstance(e, yaml.ScalarEvent) and e.start_mark and e.end_mark
    ]


def load_mapping(text: str, name: str) -> dict[str, Any]:
    """As :func:`load`, for a mapping of names to values; {} for an empty file."""
    value = load(text, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(_NO_MAPPING, name)
    if not all(isinstance(key, str) for key in value):
        raise _no_text(text, name)
    return value


def load_unique(text: str, name: str) -> dict[str, Any]:
    """As :func:`load_mapping`, and no mapping may have a key twice, at any depth: the loader
    takes the last one without a word."""
    values = load_mapping(text, name)
    for mapping in _mappings(text):
        lines: dict[tuple[str, str], int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            first = lines.get((key.tag, key.value))
            if first is not None:
                shown = repr(key.value[:60])
                raise ConfigError(f"{shown} stands in line {first}, too", name, _line(key))
            lines[key.tag, key.value] = _line(key)
    return values


def lines(text: str) -> dict[str, int]:
    """Where each name of a text that :func:`load_mapping` has loaded stands."""
    return {key.value: _line(key) for key in _names(text)}


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


def _no_text(text: str, name: str) -> ConfigError:
    """The error for a key such as ``NO``, which is no text for YAML."""
    for key in _names(text):
        if key.tag not in (_TEXT, _MERGE):
            shown = repr(str(key.value)[:60])
            message = f"the key {shown} is no text for YAML: write it in quotes"
            return ConfigError(message, name, _line(key))
    return ConfigError(_NO_MAPPING, name)


def _names(text: str) -> list[yaml.Node]:
    """The keys of the whole document."""
    root = yaml.compose(text, Loader=_LOADER)
    return [key for key, _ in root.value] if isinstance(root, yaml.MappingNode) else []


def _mappings(text: str) -> Iterator[yaml.MappingNode]:
    """Every mapping, once, however many aliases there are of it."""
    todo, seen = [yaml.compose(text, Loader=_LOADER)], set()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            todo += node.value
        elif isinstance(node, yaml.MappingNode):
            todo += [part for pair in node.value for part in pair]
            yield node
