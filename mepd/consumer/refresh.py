"""Asking the service: in a thread, since it may take its time; and again when there is news."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from mepd.consumer.backoff import MAX_S
from mepd.consumer.register import Registration, register
from mepd.errors import ServiceError
from mepd.wire.worker import ServeEndpoint

_log = logging.getLogger(__name__)

Answer = Registration | ServiceError


def ask_service(
    loop: Any,
    serve: ServeEndpoint,
    endpoint_id: str | None,
    then: Callable[[ServeEndpoint, Answer], None],
) -> None:
    """Register; ``then`` is called on the loop. Raises RuntimeError where no thread can be had."""

    def ask() -> None:
        try:
            answer: Answer = register(serve, endpoint_id)
        except ServiceError as e:
            answer = e
        except Exception as e:
            _log.exception("registering endpoint %s", serve.name)
            answer = ServiceError(f"registering failed: {type(e).__name__}")
        loop.add_callback_threadsafe(lambda: then(serve, answer))

    threading.Thread(target=ask, name="register", daemon=True).start()


class Refresher:
    """Tells the service what changed of an endpoint while its link stands.

    ``ask`` registers as :func:`ask_service` does; ``present`` is the endpoint as it is now;
    ``stands`` says whether the link does, whose next round tells the service otherwise;
    ``take`` gets the service's answer.
    """

    def __init__(
        self,
        loop: Any,
        ask: Callable[[Callable[[ServeEndpoint, Answer], None]], None],
        present: Callable[[], ServeEndpoint],
        stands: Callable[[], bool],
        take: Callable[[Registration], None],
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._present = present
        self._stands = stands
        self._take = take
        self._known: ServeEndpoint | None = None
        self._timer: Any = None
        self._asking = False

    def knows(self, serve: ServeEndpoint) -> None:
        """The service has been told this."""
        self._known = serve

    def look(self) -> None:
        """Tell the service, if there is something that it does not know."""
        self._timer = None
        if self._known is not None and not _same_news(self._known, self._present()):
            self._begin(self._later)

    def renew(self) -> None:
        """Ask again, though there is no news: what the service gave is of no use any more."""
        self._begin(self._not_renewed)

    def _begin(self, failed: Callable[[str], None]) -> None:
        """``failed`` gets the reason, unless there is other news to be told at once."""
        if self._asking or not self._stands():
            return
        try:
            self._ask(lambda serve, answer: self._answered(serve, answer, failed))
            self._asking = True
        except RuntimeError as e:
            failed(f"cannot register: {e}")

    def _answered(
        self, serve: ServeEndpoint, answer: Answer, failed: Callable[[str], None]
    ) -> None:
        self._asking = False
        if not self._stands():
            return
        if isinstance(answer, Registration):
            self._known = serve
            self._take(answer)
        elif _same_news(serve, self._present()):
            failed(str(answer))
        if self._timer is None:
            self.look()

    def _not_renewed(self, reason: str) -> None:
        _log.warning(
            "endpoint %s: no new credentials for its heartbeats: %s", self._present().name, reason
        )

    def cancel(self) -> None:
        if self._timer is not None:
            self._loop.remove_timeout(self._timer)
            self._timer = None

    def _later(self, reason: str) -> None:
        _log.warning(
            "endpoint %s: the service does not know its changed configuration: %s; trying"
            " again in %.0f s", self._present().name, reason, MAX_S,
        )  # fmt: skip
        if self._timer is None:
            self._timer = self._loop.call_later(MAX_S, self.look)


def _same_news(one: ServeEndpoint, other: ServeEndpoint) -> bool:
    """Whether the service would be told the same, with the same credential."""
    return (one.registration, one.credential) == (other.registration, other.credential)
