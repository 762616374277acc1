"""I4: rules that say more than they seem to are reported."""

from __future__ import annotations

import pytest

from mepd.config.mappingfile import EXPRESSION
from mepd.config.mappinglint import lint


def faults(match: str, output: str = "x", **more: object) -> list[str]:
    rule = {"source": "{username}", "match": match, "output": output, **more}
    return list(lint([{"DATA_TYPE": EXPRESSION, "mappings": [rule]}]))


@pytest.mark.parametrize(
    ("match", "word"),
    [
        ("a|b", "outside parentheses"),
        ("(a)|b", "outside parentheses"),
        ("x(a|b)|c", "outside parentheses"),
        ("(.*)@example.org", "unescaped '.'"),
        ("(a*)*b", "repetition"),
        ("(a?b*)*", "repetition"),
        ("((a*))*b", "repetition"),
        ("((a)(b*)c)*d", "repetition"),
        ("((ab)*c)*", "repetition"),
        ("(x(y|z*))*", "repetition"),
    ],
)
def test_I4_doubtful_rules(match: str, word: str) -> None:
    (text,) = faults(match)
    assert word in text and "document 1, rule 1" in text


@pytest.mark.parametrize(
    "match", ["(.*)@example\\.org", "(alice|bob)@x", "a\\|b", "(.?)x", "plain", "\\(a\\)\\*",
              "((a)(b))*c", "(a)*(b)*", "(?:ab)*", "(a\\*)*", "((a*)b)?"]
)
def test_I4_good_rules(match: str) -> None:
    assert faults(match) == []


def test_I4_output_from_a_field_and_literal_rules() -> None:
    assert "{name}" in faults("x", "{name}")[0]
    assert faults("a|b.c", literal=True) == []


@pytest.mark.parametrize(
    ("match", "output", "groups"),
    [("plain", "{0}", 0), ("(a)", "{1}", 1), ("\\(a\\)", "{0}", 0), ("(a(b))", "{0}{2}", 2)],
)
def test_I4_an_output_of_groups_that_there_are_not(match: str, output: str, groups: int) -> None:
    (text,) = faults(match, output)
    assert f"match has {groups} groups: it never maps" in text
    assert faults("(a)(b)", "{1}{0}") == []
    assert "never maps" in faults("(a)", "{0}", literal=True)[0]
