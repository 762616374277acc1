"""What workers and writers say to the master: words, lines of stderr, notices."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import pytest

from mepd.master import consumer, lines, words
from mepd.master.consumer import ConsumerLink
from mepd.wire import codec
from mepd.wire.framing import WORKER_FRAME_MAX, encode_frame
from mepd.wire.worker import NoticeDone, NoticeSent, SendNotice, Settle


@pytest.fixture
def pair() -> Any:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_word_none_and_the_end(pair: Any) -> None:
    ours, theirs = pair
    assert words.hear(ours) is None
    theirs.send(b'{"ready": true}')
    theirs.send(b'{"alert": "disk"}')
    assert words.hear(ours) == {"ready": True}
    assert words.hear(ours) == {"alert": "disk"}
    theirs.close()
    with pytest.raises(EOFError):
        words.hear(ours)
    ours.close()
    with pytest.raises(EOFError):  # not the error of a descriptor that is gone
        words.hear(ours)


class FakeLoop:
    def __init__(self) -> None:
        self.watched: dict[int, Any] = {}
        self.later: list[Any] = []
        self.now = 0.0
        self.step = 0.0

    def clock(self) -> float:
        self.now += self.step
        return self.now

    def call_later(self, delay: float, callback: Any) -> None:
        self.later.append(callback)

    def watch(self, fd: int, readable: Any, writable: Any = None) -> None:
        self.watched[fd] = readable

    def forget(self, fd: int) -> None:
        self.watched.pop(fd, None)


class TestLines:
    @pytest.fixture
    def logged(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        seen: list[bytes] = []
        monkeypatch.setattr(
            lines.mepdlog, "replay_json_line", lambda line, title, pid: seen.append(line)
        )
        return seen

    @pytest.fixture
    def pipe(self) -> Any:
        loop: Any = FakeLoop()
        reader, writer = os.pipe()
        made = lines.LineReader(loop, reader, "mepd: amqp-consumer", 7)
        yield loop, made, writer
        made.close()
        os.close(writer)

    def test_lines_in_pieces(self, logged: list[bytes], pipe: Any) -> None:
        loop, reader, writer = pipe
        (read,) = loop.watched.values()
        read()  # woken for nothing
        os.write(writer, b"one\n\n  \ntw")
        read()
        assert logged == [b"one"]
        os.write(writer, b"o\nthree")
        read()
        reader.close()
        reader.close()
        assert logged == [b"one", b"two", b"three"] and not loop.watched

    def test_a_line_without_end_is_cut(self, logged: list[bytes], pipe: Any) -> None:
        loop, _, writer = pipe
        (read,) = loop.watched.values()
        os.write(writer, b"x" * 40_000)
        read()
        os.write(writer, b"y\n")
        read()
        assert [len(line) for line in logged] == [16 * 1024, 1]

    def test_many_lines_wait_for_other_turns(self, logged: list[bytes], pipe: Any) -> None:
        loop, _, writer = pipe
        loop.step = lines.TURN_MAX / 4
        (read,) = loop.watched.values()
        os.write(writer, b"x\n" * 10)
        read()
        assert 0 < len(logged) < 10 and list(loop.watched.values()) == [None]
        while loop.later:
            loop.later.pop()()
        assert len(logged) == 10 and list(loop.watched.values()) == [read]

    def test_what_is_beyond_the_rate_is_counted(
        self, logged: list[bytes], pipe: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        loop, _, writer = pipe
        (read,) = loop.watched.values()
        for _ in range(3):
            os.write(writer, b"x\n" * 1000)
            read()
        assert len(logged) == lines.LineReader.BURST and not caplog.records
        loop.now += 1.0
        os.write(writer, b"y\n")
        read()
        assert logged[-1] == b"y"
        assert "2000 lines of mepd: amqp-consumer are lost: it wrote too many" in caplog.text

    def test_the_end_of_the_pipe(self, logged: list[bytes]) -> None:
        loop: Any = FakeLoop()
        fd, writer = os.pipe()
        lines.LineReader(loop, fd, "t", 7)
        (read,) = loop.watched.values()
        os.write(writer, b"last words")
        os.close(writer)
        read()
        read()
        assert logged == [b"last words"] and not loop.watched
        with pytest.raises(OSError):
            os.fstat(fd)


class TestNotices:
    def link(self) -> tuple[ConsumerLink, list[Any]]:
        sent: list[Any] = []
        return ConsumerLink(lambda message: sent.append(message) or True), sent  # type: ignore

    def test_A1_one_on_its_way_is_not_given_to_the_next_consumer(self) -> None:
        link, sent = self.link()
        link.notify_failure("gpu", {}, "died")
        link.notify_failure("gpu", {}, "died, too")
        link.notice_sent(NoticeSent(sent[0].notice_id))
        link.lost()
        link.ready()
        assert [m.text for m in sent] == ["died", "died, too", "died, too"]
        link.notice_sent(NoticeSent("n99"))  # of an earlier life
        link.notice_done(NoticeDone(sent[1].notice_id, True))
        assert not link.waits_for("gpu")

    def test_one_that_fits_no_frame_is_settled(self, caplog: pytest.LogCaptureFixture) -> None:
        """It would be the end of each consumer that it is given to."""
        sent: list[Any] = []

        def send(message: Any) -> bool:
            encode_frame(codec.encode(message))
            sent.append(message)
            return True

        link = ConsumerLink(send)
        link.notify_failure("gpu", {}, "died" * WORKER_FRAME_MAX, ["t1"])
        assert sent == [Settle("t1")] and not link.waits_for("gpu")
        assert "failure notice for endpoint gpu not sent: frame of" in caplog.text
        link.ready()
        assert len(sent) == 1

    def test_a_notice_holds_its_deliveries_until_it_is_out(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        link, sent = self.link()
        link.notify_failure("gpu", {"k": "canary"}, "no such account", ["t1"])
        (notice,) = sent
        assert isinstance(notice, SendNotice) and link.waits_for("gpu")
        assert not link.waits_for("cpu")
        assert link.notice_done(NoticeDone(notice.notice_id, False, "broker gone")) == "gpu"
        assert sent[1:] == [Settle("t1", told=False)] and not link.waits_for("gpu")
        assert "failure notice for endpoint gpu not sent: broker gone" in caplog.text
        assert "canary" not in caplog.text
        assert link.notice_done(NoticeDone(notice.notice_id, True)) == "" and len(sent) == 2

    def test_a_notice_takes_what_it_needs_of_the_credentials(self) -> None:
        link, sent = self.link()
        publish = {"exchange": "e", "routing_key": "k", "mandatory": True}
        info = {"connection_url": "amqp://h", "queue_publish_kwargs": publish, "queue": "q" * 999}
        creds = {"endpoint_id": "i", "heartbeat_queue_info": info, "x": "y" * 4_000_000}
        link.notify_failure("gpu", creds, "no", ["t1"])
        needed = {"exchange": "e", "routing_key": "k"}
        assert sent[-1].amqp_creds == {
            "endpoint_id": "i",
            "heartbeat_queue_info": {"connection_url": "amqp://h", "queue_publish_kwargs": needed},
        }
        for odd in ({**publish, "exchange": "e" * 256}, {"exchange": 7}, None, []):
            creds["heartbeat_queue_info"] = {**info, "queue_publish_kwargs": odd}
            link.notify_failure("gpu", creds, "no")
            told = sent[-1].amqp_creds["heartbeat_queue_info"]
            assert "exchange" not in told["queue_publish_kwargs"]

    def test_only_what_hangs_on_no_delivery_outlives_the_consumer(self) -> None:
        link, sent = self.link()
        link.notify_failure("gpu", {}, "died", ())
        link.notify_failure("gpu", {}, "not started", ["t1"])
        link.lost()
        del sent[:]
        link.ready()
        assert [m.text for m in sent] == ["died"]

    def test_too_many_that_wait(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(consumer, "_UNSENT_MAX", 2)
        link, sent = self.link()
        for number in range(3):
            link.notify_failure("gpu", {}, "x", [f"t{number}"])
        assert [type(m) for m in sent] == [SendNotice, SendNotice, Settle]
        assert sent[-1] == Settle("t2", told=False) and caplog.records[-1].levelno == logging.ERROR
