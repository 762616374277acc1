"""A line of the log: no credential, one line, printable, bounded (bars O1, O2)."""

from __future__ import annotations

import io
import json
import logging
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mepd import log as mepdlog
from mepd import logtext

CANARY = "k4n4ry-s3cr3t"


def record(message: str, *args: Any, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("mepd", logging.INFO, "", 0, message, args, None)
    made.__dict__.update({"title": "mepd: master", **extra})
    return made


def line(message: str, *args: Any, **extra: Any) -> str:
    return mepdlog.LineFormatter().format(record(message, *args, **extra))


@pytest.mark.parametrize(
    ("outside", "shown"),
    [
        ("a\nb", "a\\nb"),
        ("a\r\nb", "a\\r\\nb"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("nul\0", "nul\\x00"),
        ("\x85nel\u2028ls\u2029ps", "\\x85nel\\u2028ls\\u2029ps"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("lone\udcff", "lone\\udcff"),
        ("a\tb", "a b"),
        ("Zoë 東京", "Zoë 東京"),
    ],
)
def test_O1_an_outside_field_is_escaped(outside: str, shown: str) -> None:
    assert line("user %s here", outside).endswith(f"user {shown} here")


@given(st.text(st.characters(codec=None), max_size=200))
def test_O1_any_text_is_one_printable_line(outside: str) -> None:
    shown = line("%s", outside)
    assert shown.isprintable() and len(shown.encode()) < logtext.LINE_MAX
    assert shown.splitlines() in ([shown], [])


@pytest.mark.parametrize("letter", ["x", "é", "東", "😀", "\n", "\udc80"])
def test_O1_at_most_4_KB_and_who_it_is_about_stays(letter: str) -> None:
    label = "[(harper, uep.a.b) mepd-uep start uep.a.b --die-with-parent]"
    shown = line("Reaping: %s %s", letter * 100_000, label)
    assert len(shown.encode()) + 1 <= 4096
    short = line("Reaping: %s %s", letter * 5_000, label)
    assert len(short.encode()) + 1 <= 4096 and short.endswith(label)


def test_O1_a_title_is_an_outside_field_too() -> None:
    assert "\n" not in line("x", title="mepd: launch a\n2026-01-31 12:00:00,000 INFO forged")


SECRETS = [
    f"amqps://user:{CANARY}@broker:5671/v",
    f"amqp://:{CANARY}@broker",
    f"amqp://user:p@ss/{CANARY}@broker/x",
    f"unknown command 'amqp://user:{CANARY}'",
    f"amqp://:12{CANARY}",
    f"user_opts.amqp://u:{CANARY}[0]: not a finite number",
    f"http://h/p?access_token={CANARY}&x=1",
    f'{{"password": "{CANARY}", "x": 1}}',
    f"{{'broker_password': '{CANARY} with blank'}}",
    f'{{"client_secret": "a\\"{CANARY}"}}',
    f'said "{{\\"token\\": \\"a {CANARY}\\"}}"',
    f"MEPD_TOKEN={CANARY}",
    f"refresh_token: ['x', '{CANARY}']",
    f"Authorization: Basic {CANARY}",
    f"headers: Bearer {CANARY}",
    f"enckey => {CANARY}",
    f"token=b'{CANARY}'",
    f"passwd='{CANARY} unterminated",
]


@pytest.mark.parametrize("text", SECRETS)
def test_O2_by_pattern(text: str) -> None:
    assert CANARY not in line("%s", text)
    assert CANARY not in line(text.replace("%", "%%"))


@pytest.mark.parametrize(
    "value",
    [
        {"amqp_creds": {"url": CANARY}, "name": "uep.a.b"},
        {"a": [{"deep": ({"access_token": (CANARY, CANARY)},)}]},
        {"Password": CANARY},
        {"credentials": f"x {CANARY} y"},
    ],
)
def test_O2_by_field(value: Any) -> None:
    assert CANARY not in line("got %s", value)
    assert CANARY not in line("got %(what)s", {"what": value})
    assert CANARY not in line("got %r and %s", value, 1)


@pytest.mark.parametrize(
    "text",
    [
        "https://h/p, mail harper@example.org: password refused, 3 tokens",
        "amqps://h:5671/v, http://h:80: refused (http://127.0.0.1:8080), 'http://[::1]:80'.",
        "http://h: refused; http://h:8080",
    ],
)
def test_O2_what_is_no_secret_stays(text: str) -> None:
    assert line("%s", text).endswith(text)


def raise_it() -> None:
    raise ValueError(f"connecting to amqp://u:{CANARY}@h failed, token={CANARY}")


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
def test_O2_tracebacks_and_debug(level: int) -> None:
    stream = io.StringIO()
    for handler in (logging.StreamHandler(stream), mepdlog.JsonLineHandler(stream)):
        if not isinstance(handler, mepdlog.JsonLineHandler):
            handler.setFormatter(mepdlog.LineFormatter())
        logger = logging.Logger("x", logging.DEBUG)
        logger.addHandler(handler)
        try:
            raise_it()
        except ValueError:
            logger.log(level, "it broke", exc_info=True, stack_info=True)
    written = stream.getvalue()
    assert written.count("\n") == 2 and "raise_it" in written and "ValueError" in written
    assert CANARY not in written


def test_O2_from_processes_with_the_masters_rights() -> None:
    channel = mepdlog.RecordChannel()
    logger = logging.Logger("x")
    logger.addHandler(channel.child_handler("mepd: launch"))
    logger.error("long " + "x" * 100_000 + " end %s", {"token": CANARY})
    data = channel.reader.recv(1 << 20)
    assert CANARY.encode() not in data and len(data) < 16_384
    channel.reader.close()
    channel.writer.close()


def test_O2_no_text_takes_long() -> None:
    """Hostile texts for these patterns; what they cost is processor time of the master."""
    before = time.process_time()
    for text in ("a", "a://", "token", 'token="', "token=[", "://@", "eyJ", "Bearer ", 'x\\"'):
        line("%s", text * 100_000)
    assert time.process_time() - before < 2.0


def test_a_worker_line_keeps_its_level_and_no_title(caplog: pytest.LogCaptureFixture) -> None:
    said = {"level": "ERROR", "message": "x\ny", "title": "forged", "pid": 1}
    mepdlog.replay_json_line(json.dumps(said).encode(), "mepd: amqp-consumer", 7)
    (made,) = caplog.records
    title = getattr(made, "title", "")
    assert (made.levelname, title, made.process) == ("ERROR", "mepd: amqp-consumer", 7)


def test_a_line_about_a_uep_names_it() -> None:
    about = {"uep": "uep.a.b", "user": "harper"}
    assert line("forked.", **about).endswith(" [(harper, uep.a.b)] forked.")
    assert line("ready [(harper, uep.a.b) c]", **about).endswith(" ready [(harper, uep.a.b) c]")
    assert line("start of uep.a.b refused", uep="uep.a.b").endswith(" start of uep.a.b refused")
