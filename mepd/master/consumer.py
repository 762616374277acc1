"""The master's side of the amqp-consumer: deliveries in, settlements and notices out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable
from typing import Any

from mepd.errors import WireError
from mepd.master.answered import Answered
from mepd.model import StartRequest
from mepd.wire.worker import NoticeDone, NoticeSent, SendNotice, Settle

log = logging.getLogger(__name__)

_UNSENT_MAX = 1000
_NAME_MAX = 255
"""Of what AMQP calls a short string."""


class ConsumerLink:
    """Settles deliveries when their outcome is known, and has failures told to users.

    Tokens die with the consumer that gave them: its unacknowledged deliveries come again
    from the broker. A notice that hangs on no delivery is kept for the next consumer. One that
    was on its way when the consumer died counts as told: the broker's word of it takes as long
    as its disk.
    """

    def __init__(self, send: Callable[[Any], bool]) -> None:
        """``send`` gives a message to the consumer; False if there is none."""
        self._send = send
        self._numbers = itertools.count(1)
        self._notices: dict[str, tuple[SendNotice, frozenset[str]]] = {}
        self._on_its_way: set[str] = set()
        self._answered = Answered()

    def is_new(self, token: str, request: StartRequest) -> bool:
        """Whether a delivery is to be begun; one that was answered already is settled."""
        if self._answered.is_new(token, request):
            return True
        self._send(Settle(token))
        return False

    def settle(self, tokens: Iterable[str], told: bool = True) -> None:
        """Not ``told``: the start failed, and its user could not be told."""
        for token in tokens:
            self._answered.settled(token, told)
            self._send(Settle(token, told))

    def notify_failure(
        self, endpoint: str, amqp_creds: dict[str, Any], text: str, tokens: Iterable[str] = ()
    ) -> None:
        """Send a failure notice; the deliveries are settled when it is out (or cannot be)."""
        if len(self._notices) >= _UNSENT_MAX:
            log.error("too many failure notices wait; one is dropped")
            self.settle(tokens, told=False)
            return
        notice = SendNotice(f"n{next(self._numbers)}", endpoint, text, _needed(amqp_creds))
        try:
            self._send(notice)
        except WireError as e:  # nor would it fit another time
            log.error("failure notice for endpoint %s not sent: %s", endpoint, e)
            self.settle(tokens)
            return
        self._notices[notice.notice_id] = (notice, frozenset(tokens))

    def waits_for(self, endpoint: str) -> bool:
        """Whether a notice for this endpoint is on its way."""
        return any(notice.endpoint == endpoint for notice, _ in self._notices.values())

    def notice_sent(self, word: NoticeSent) -> None:
        """A notice has left for the broker."""
        if word.notice_id in self._notices:
            self._on_its_way.add(word.notice_id)
            for token in self._notices[word.notice_id][1]:
                self._answered.sent(token)

    def notice_done(self, done: NoticeDone) -> str:
        """A notice is out, or cannot be; the endpoint that it was for, if it is known."""
        self._on_its_way.discard(done.notice_id)
        notice, tokens = self._notices.pop(done.notice_id, (None, frozenset()))
        if notice is None:
            return ""
        if not done.sent:
            log.warning("failure notice for endpoint %s not sent: %s", notice.endpoint, done.reason)
        self.settle(tokens, told=done.sent)
        return notice.endpoint

    def lost(self) -> None:
        """The consumer is gone, and with it every token."""
        self._answered.lost()
        self._notices = {
            key: (notice, frozenset())
            for key, (notice, tokens) in self._notices.items()
            if not tokens and key not in self._on_its_way
        }
        self._on_its_way.clear()

    def ready(self) -> None:
        """A new consumer is there: give it what the old one could not send."""
        for notice, _ in self._notices.values():
            self._send(notice)


def _needed(amqp_creds: dict[str, Any]) -> dict[str, Any]:
    """What a notice needs of the credentials of a checked start request: they may be large,
    and many may fail at once."""
    info = amqp_creds.get("heartbeat_queue_info", {})
    publish = info.get("queue_publish_kwargs")
    names = publish if type(publish) is dict else {}
    short = {k: v for k, v in names.items() if k in ("exchange", "routing_key") and _is_short(v)}
    return {
        "endpoint_id": amqp_creds.get("endpoint_id"),
        "heartbeat_queue_info": {
            "connection_url": info.get("connection_url"),
            "queue_publish_kwargs": short,
        },
    }


def _is_short(value: Any) -> bool:
    return type(value) is str and len(value) <= _NAME_MAX
