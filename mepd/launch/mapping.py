"""Identity mapping: from a person's linked identities to the name of a local account.

The documents are those of globus-identity-mapping, which also compiles the expressions.
Matching and interpolation are done here, since the library's are not safe by themselves:
alternation un-anchors its patterns, ``$`` admits a trailing newline, and the fields of an
identity are interpolated more than once.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mepd.errors import MepdError
from mepd.launch import external
from mepd.launch.bounds import bounded

log = logging.getLogger(__name__)

Candidates = list[list[dict[str, list[str]]]]
_FIELD = re.compile(r"(?<!\\)(?:\\\\)*\{([^}]*)\}")
_LIVE = ("used", "private")
EXPRESSION_TIMEOUT = 1.5


class MappingError(MepdError):
    """No identity of the set maps, or a mapper failed."""


@dataclass(frozen=True)
class MappedIdentity:
    """The outcome: ``name`` for ``identity_id``; ``candidates`` per mapper, in order."""

    name: str
    identity_id: str
    candidates: Candidates


class _Skip(Exception):
    """This identity cannot be used with this rule."""


def _interpolate(text: str, identity: Mapping[str, Any], groups: Sequence[str | None]) -> str:
    """One pass over ``text``; what is put in is never looked at again."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        found: Any
        if name.isascii() and name.isdigit():
            found = groups[int(name)] if int(name) < len(groups) else None
        else:
            found = identity.get(name)
        if not isinstance(found, str):
            raise _Skip(f"no value for {{{name}}}")
        return match[0][: match.start(1) - match.start() - 1] + found

    return _FIELD.sub(value, text)


def _anchored(rule: Mapping[str, Any]) -> re.Pattern[str]:
    """The library's ``^...$`` pattern, grouped, so that fullmatch means all of it.

    Of a literal rule the library leaves its meaning to what follows a backslash. Without
    regard to case only ASCII's letters are alike: elsewhere a Kelvin sign is a k, and a long
    s an s, so that another domain could pass for the site's.
    """
    known: re.Pattern[str] = rule["compiled_match"]
    pattern = re.escape(rule["match"]) if rule.get("literal") else known.pattern[1:-1]
    return re.compile(f"(?:{pattern})", known.flags & ~re.UNICODE | re.ASCII)


def map_expression(
    document: Mapping[str, Any], identities: Sequence[Mapping[str, Any]]
) -> list[dict[str, list[str]]]:
    """All matches of an expression document, in the order of its rules, then identities."""
    from globus_identity_mapping.mappers.expression import ExpressionIdentityMapping

    mapper = ExpressionIdentityMapping.from_mapping_document(document)
    found: list[dict[str, list[str]]] = []
    for rule in mapper.mappings:
        pattern = _anchored(rule)
        hits: dict[str, list[str]] = {}
        for identity in identities:
            if identity.get("status") not in _LIVE or not isinstance(identity.get("id"), str):
                continue
            try:
                match = pattern.fullmatch(_interpolate(rule["source"], identity, ()))
                if match:
                    name = _interpolate(rule["output"], identity, match.groups())
                    hits.setdefault(identity["id"], []).append(name)
            except _Skip as e:
                log.debug("rule %r skips an identity: %s", rule["match"], e)
        if hits:
            found.append(hits)
    return found


def map_identities(
    documents: Sequence[Mapping[str, Any]],
    identities: Sequence[Mapping[str, Any]],
    endpoint_id: str,
    timeout: float,
) -> MappedIdentity:
    """Try the documents in order; the first that maps any identity wins.

    Raises MappingError with a text for the log. A mapper that fails is logged and the
    next one is tried; expressions that do not come to an end, each or together, fail the
    start.
    """
    candidates: Candidates = []
    left = EXPRESSION_TIMEOUT
    for number, document in enumerate(documents, start=1):
        kind = str(document.get("DATA_TYPE", "")).partition("#")[0]
        try:
            if kind == "external_identity_mapping":
                hits = external.map_external(document, identities, endpoint_id, timeout)
            else:
                import globus_identity_mapping.mappers.expression  # noqa: F401  (not bounded)

                if left <= 0:  # the kernel's timers let a short one pass
                    text = f"the expression mappings took longer than {EXPRESSION_TIMEOUT:g} s"
                    raise TimeoutError(text)
                before = time.process_time()
                with bounded(left, "an expression mapping"):
                    hits = map_expression(document, identities)
                left -= time.process_time() - before
        except (TimeoutError, MemoryError, RecursionError) as e:
            raise MappingError(f"({type(e).__name__}) {e}") from None
        except Exception as e:
            log.warning(
                "Identity mapper %d of %d (%s) failed -- (%s) %s",
                number,
                len(documents),
                kind,
                type(e).__name__,
                e,
            )
            hits = []
        candidates.append(hits)
        if hits:
            identity_id, names = next(iter(hits[0].items()))
            return MappedIdentity(names[0], identity_id, candidates)
    raise MappingError("(LookupError) no mapping matches")
