"""Whether the quoted values in a rendered template are where a quoted value is one.

``{{ NAME }}`` on its own is a string of YAML, whatever it holds. In quotes of the template's
own, or right behind other text, the value's quotes end a string or mean nothing; then a comma
in it could begin another value, and a # hide what follows.
"""

from __future__ import annotations

from collections.abc import Sequence

from mepd.config import safeyaml
from mepd.launch.quoting import Span


def check(text: str, spans: Sequence[Span]) -> None:
    """Raise ValueError, naming value and line, where one is not all in one place.

    ``text`` is YAML that has been parsed; ``spans`` are in order. A value is in place where
    it is a string of its own, within a longer one that it does not end, or in a comment.
    """
    scalars = safeyaml.scalars(text) if spans else []
    at = 0
    for span in spans:
        while at < len(scalars) and scalars[at].end <= span.start:
            at += 1
        if not _in_place(text, span, scalars[at : at + 1]):
            line = text.count("\n", 0, span.start) + 1
            raise ValueError(
                f"{span.path}: the template (line {line} of what it yields) puts quotes around"
                " it, or other text before it, out of which this value gets; write"
                " {{ NAME }} by itself"
            )


def _in_place(text: str, span: Span, nearest: Sequence[safeyaml.Scalar]) -> bool:
    for scalar in nearest:
        if (scalar.start, scalar.end) == (span.start, span.end):
            return True
        if scalar.start < span.end:
            within = scalar.start <= span.start and span.end <= scalar.end
            ends = {'"': True, "'": "'" in text[span.start : span.end]}.get(scalar.style, False)
            return within and not ends
    return True  # in a comment: anywhere else the quotes would have begun a string
