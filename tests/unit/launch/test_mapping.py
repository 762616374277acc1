"""Identity mapping against hostile identities and careless rules."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mepd.launch import mapping
from tests.figures import figure

ME = "00000000-0000-4444-8888-111111111111"


def rule(
    match: str, output: str = "{0}", source: str = "{username}", **more: Any
) -> dict[str, Any]:
    rules = [{"source": source, "match": match, "output": output, **more}]
    return {"DATA_TYPE": "expression_identity_mapping#1.0.0", "mappings": rules}


def who(username: Any, **more: Any) -> dict[str, Any]:
    return {"id": ME, "username": username, "status": "used", **more}


def mapped(document: dict[str, Any], *identities: dict[str, Any]) -> str | None:
    try:
        return mapping.map_identities([document], identities, "ep", 5.0).name
    except mapping.MappingError:
        return None


def test_the_manuals_two_identities() -> None:
    rules = {
        "DATA_TYPE": "expression_identity_mapping#1.0.0",
        "mappings": [
            {"source": "{email}", "output": "{0}", "match": "(.*)@your_institution.com"},
            {"source": "{email}", "output": "{0}", "match": "(.*)@cs.your_institution.com"},
        ],
    }
    alicia = who("alicia@legal.your_institution.com", email="alicia@legal.your_institution.com")
    roberto = {
        "id": "00000000-0000-4444-8888-222222222222",
        "email": "roberto@cs.your_institution.com",
        "username": "roberto@your_institution.com",
        "status": "used",
    }
    found = mapping.map_identities([rules], [alicia, roberto], "ep", 5.0)
    assert (found.name, found.identity_id) == ("roberto", roberto["id"])
    assert found.candidates == [[{roberto["id"]: ["roberto"]}]]


def test_the_first_document_that_maps_wins() -> None:
    documents = [rule("nobody"), rule("(.*)@example.com"), rule("(.*)@.*", "other")]
    found = mapping.map_identities(documents, [who("mickey97@example.com")], "ep", 5.0)
    assert found.name == "mickey97" and found.candidates[0] == []


@pytest.mark.parametrize(
    ("document", "identity"),
    [
        (rule("root|(.*)@example.org", "{0}"), who("root@evil.example")),
        (rule("alice@example.org|bob", "alice"), who("alice@example.org.evil.example")),
        (rule("alice@example.org|bob", "alice"), who("evil-bob")),
        (rule("(.*)@example.org"), who("x@example.org\n")),
        (rule("(.*)@example.org"), who("a\nb@example.org")),
        (rule("a@b", "{name}"), who("a@b")),
        (rule("a@b", "{0}"), who("a@b")),
        (rule("(.*)", "{0}"), who(None)),
        (rule("(.*)", "{0}"), who(7)),
        (rule("(.*)", "{0}"), {**who("a"), "status": "unused"}),
    ],
)
def test_I1_hostile_identities_do_not_map(document: Any, identity: Any) -> None:
    assert mapped(document, identity) is None


def test_I1_interpolation_is_one_pass() -> None:
    """A field that spells another placeholder is not expanded again."""
    document = rule("(.*)@example.org", "{name}{0}")
    assert mapped(document, who("x@example.org", name="{id}")) == "{id}x"


def test_I3_only_the_unusable_identity_is_skipped() -> None:
    document = rule("(.*)@example.org", source="{email}")
    good = {**who("x"), "id": "other", "email": "good@example.org"}
    assert mapped(document, who("x", email=None), good) == "good"
    assert mapped(rule("(a)?(b)", "{0}"), who("b"), {**who("ab"), "id": "o"}) == "a"


RULES = [
    "(.*)@example.org", "a|b", "(a|b)c", "x?y", "(.*)", "a.c", "a\\.c", "(a)(b)?", "(.*)@(.*)",
    "root|admin", "(x*)y", "(.?)z", "a\\|b", "(a)|(b)", "b@x|c@x", "(..)", "x\\*", "(\\()",
    "()a", "é",
]  # fmt: skip
PARTS = ["a", "b", "c", "x", "y", "z", "@", "example.org", "\n", "root", ".", "|", "é", "(", ""]


@pytest.mark.figures
@settings(max_examples=figure(200, 20_000), deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=5).map("".join), st.sampled_from(RULES))
def test_I1_agrees_with_a_reference_matcher(username: str, match: str) -> None:
    """Mapped only if the whole value matches the grouped pattern; to just what {0} says."""
    reference = re.fullmatch(f"(?:{match})", username)
    want = reference[1] if reference and reference.re.groups and reference[1] is not None else None
    assert mapped(rule(match), who(username)) == want


def test_literal_and_ignore_case() -> None:
    assert mapped(rule("A.B", "x", literal=True), who("A.B")) == "x"
    assert mapped(rule("A.B", "x", literal=True), who("AxB")) is None
    assert mapped(rule("ALICE", "x", ignore_case=True), who("alice")) == "x"


@pytest.mark.parametrize(
    ("match", "other"),
    [("CORP\\*", "CORP"), ("CORP\\.me", "CORP\\xme"), ("CORP\\?", "CORP"), ("a\\|b", "b"),
     ("a\\\\.", "a\\\\x"), ("(me)", "me"), ("me\\", "me"), ("[me]$^+{2}", "m"), ("ME", "me")],
)  # fmt: skip
def test_I1_nothing_in_a_literal_rule_has_a_meaning(match: str, other: str) -> None:
    """Not even what stands behind a backslash, as in DOMAIN\\NAME."""
    document = rule(match, "x", literal=True)
    assert mapped(document, who(match)) == "x"
    assert mapped(document, who(other)) is None


@pytest.mark.parametrize("username", ["me@\u017fite.org", "me@\u212a.org"])
def test_I1_letters_that_only_look_alike_to_unicode(username: str) -> None:
    """A long s is an s and a Kelvin sign a k where Unicode's case does not count."""
    document = rule("(.*)@(site|k)\\.org", ignore_case=True)
    assert mapped(document, who("me@SITE.org")) == "me"
    assert mapped(document, who(username)) is None


def test_a_failing_mapper_leaves_the_next_one_its_turn() -> None:
    broken = {"DATA_TYPE": "external_identity_mapping#1.0.0", "command": ["/bin/false", "-a"]}
    assert mapping.map_identities([broken, rule("(.*)")], [who("me")], "ep", 5.0).name == "me"


def test_reference_has_every_kind_of_rule() -> None:
    """The reference test means something: each rule matches something of the alphabet."""
    values = ["".join(p) for n in range(4) for p in itertools.product(PARTS, repeat=n)]
    idle = [r for r in RULES if not any(re.fullmatch(f"(?:{r})", v) for v in values)]
    assert idle in ([], ["x\\*"])


ENDLESS = [
    ("(.*).(.*).(.*)@(.*)example.org", "a." * 1800),
    ("(.*)\\.(.*)\\.(.*)@example\\.org", "a." * 1800),
    ("(a*)*b", "a" * 3600),
    ("((a*))*b", "a" * 3600),
    ("(a?a?)*b", "a" * 60),
    ("(a|a)*b", "a" * 40),
    ("(a|.)*b", "a" * 60),
    ("(x*x*)*y", "x" * 60),
    ("a*a*a*a*b", "a" * 3600),
    ("(.*)(.*)(.*)(.*)b\\.", "a" * 3600),
]


@pytest.mark.parametrize(("match", "value"), ENDLESS)
def test_I5_an_expression_without_end_fails_the_start(
    match: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapping, "EXPRESSION_TIMEOUT", 0.3)
    before = time.process_time()
    with pytest.raises(mapping.MappingError):
        mapping.map_identities([rule(match), rule("(.*)", "next")], [who(value)], "ep", 5.0)
    assert time.process_time() - before < 1.5


def test_I5_many_slow_expressions_are_one_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "EXPRESSION_TIMEOUT", 0.5)
    slow = [rule("(aa|a)*b")] * 2000  # each takes a millisecond or some, and none too long
    with pytest.raises(mapping.MappingError, match="longer than"):
        mapping.map_identities([*slow, rule("(.*)", "next")], [who("a" * 26)], "ep", 5.0)


_FIELDS = st.sampled_from(["id", "username", "email", "status", "name", "sub", "0", "x"])
_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | (
    st.sampled_from(["used", "private", ME, "a@example.org", "{0}", "{id}", "\\", "\ud800"])
)  # fmt: skip
_TEMPLATES = st.lists(
    st.sampled_from(["{username}", "{0}", "{1}", "{id}", "{}", "{", "}", "\\", "a", "é"]),
    max_size=4,
).map("".join)  # fmt: skip
_MATCHES = st.lists(
    st.sampled_from([*"ab.*?|()\\^$+[]{}@é", "(.*)", "(?i)", "(?:", "\\1", "\\."]), max_size=8
).map("".join)  # fmt: skip


@pytest.mark.figures
@settings(max_examples=figure(300, 20_000), deadline=None)
@given(
    st.lists(st.dictionaries(_FIELDS, _VALUES, max_size=6), max_size=4),
    st.lists(st.tuples(_MATCHES, _TEMPLATES, _TEMPLATES, st.booleans(), st.booleans()),
             min_size=1, max_size=3),
)  # fmt: skip
def test_any_identities_by_any_rules(
    identities: list[dict[str, Any]], rules: list[tuple[str, str, str, bool, bool]]
) -> None:
    """A name for one of the identities, or a MappingError; never one that is not in use."""
    documents = [
        rule(match, output, source, literal=literal, ignore_case=ignore_case)
        for match, source, output, literal, ignore_case in rules
    ]
    try:
        found = mapping.map_identities(documents, identities, "ep", 5.0)
    except mapping.MappingError:
        return
    assert isinstance(found.name, str)
    by_id = [i for i in identities if i.get("id") == found.identity_id]
    assert any(i.get("status") in ("used", "private") for i in by_id)
