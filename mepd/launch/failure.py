"""The one way in which a stage of a start fails."""

from __future__ import annotations

from mepd.errors import MepdError
from mepd.model import Stage

SEE_ADMINISTRATOR = "see your system administrator"


class StageError(MepdError):
    """A start failed at ``stage``.

    ``reason`` is for the administrator's log. ``detail`` is what the user is told inside
    ``[exit code: N; ...]``, opaque unless a stage knows that it is the user's business;
    ``public`` replaces the user's whole text where the manual shows another form.
    """

    def __init__(
        self, stage: Stage, reason: str, detail: str | None = None, public: str | None = None
    ) -> None:
        super().__init__(reason)
        self.stage = stage
        self.reason = reason
        self.detail = detail or f"(PermissionError) {SEE_ADMINISTRATOR}"
        self.public = public

    def public_text(self, user: str | None) -> str:
        """The text of the failure notice, as the manual words it."""
        if self.public is not None:
            return self.public
        whom = f" for {user}" if user else ""
        return (
            f"Unable to start user endpoint process{whom}"
            f" [exit code: {int(self.stage)}; {self.detail}]"
        )
