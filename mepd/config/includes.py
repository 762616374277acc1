"""Which files of an endpoint's folder its templates may include.

Those that look like templates, and those that a template names. They are read with the
five files, so that a start sees one version of all; nothing is read as the user.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

SUFFIXES = (".j2", ".jinja", ".jinja2", ".yaml", ".yml")
FILES_MAX = 64
_DEPTH_MAX = 3
_ENTRIES_MAX = 4096
_TAG = re.compile(r"\{%[-+]?\s*(?:include|extends|import|from)\b")
_QUOTED = re.compile(r"'([^'\n]{1,255})'|\"([^\"\n]{1,255})\"")


def candidates(directory: Path) -> list[str]:
    """Names, relative to the folder, of files that look like templates. Raises OSError.

    Hidden files and folders are passed over.
    """
    return sorted(islice(_walk(directory, Path(), _DEPTH_MAX), FILES_MAX))


def _walk(directory: Path, below: Path, depth: int) -> Iterator[str]:
    folders = []
    with os.scandir(directory / below) as entries:
        for entry in islice(sorted(entries, key=lambda e: e.name), _ENTRIES_MAX):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.name.endswith(SUFFIXES) and entry.is_file():
                yield str(below / entry.name)
    if depth > 1:
        for name in folders:
            yield from _walk(directory, below / name, depth - 1)


def _tags(text: str) -> Iterator[str]:
    """What the tags that name files hold; each character is looked at once."""
    tag = _TAG.search(text)
    while tag:
        end = text.find("%}", tag.end())
        if end < 0:
            return
        yield text[tag.end() : end]
        tag = _TAG.search(text, end)


def named(text: str) -> list[str]:
    """The names that a template's include, extends, import and from tags quote, if they
    stay below the folder."""
    found = [a or b for tag in _tags(text) for a, b in _QUOTED.findall(tag)]
    return [n for n in found if n == os.path.normpath(n) and not n.startswith(("/", ".."))]


def reachable(name: str, texts: Mapping[str, str]) -> dict[str, str]:
    """Of ``texts`` by name: the template ``name`` and what it includes, at any depth."""
    found: dict[str, str] = {}
    todo = [name]
    while todo:
        at = todo.pop()
        if at in texts and at not in found:
            found[at] = texts[at]
            todo += named(texts[at])
    return found
