"""What can go wrong with a child, or with the caller."""

from __future__ import annotations

from typing import ClassVar


class ChildError(RuntimeError):
    """A called model gave no answer. The message names the model and gives its words.

    Attributes:
        child: the model's name.
        kind: "unavailable", "failed" or "late", as metrics say it.
    """

    kind: ClassVar[str]

    def __init__(self, child: str, message: str) -> None:
        super().__init__(f"{child}: {message}")
        self.child = child


class ChildUnavailable(ChildError):
    """A called model cannot be reached: it is not loaded, its process has died, or its queue is full."""

    kind = "unavailable"


class ChildFailed(ChildError):
    """A called model answered with an error.

    Attributes:
        code: the model's own error code, one of `pb_utils.TritonError`'s; None if Triton does not pass it on (before
            release 25.04).
    """

    kind = "failed"

    def __init__(self, child: str, message: str, code: int | None = None) -> None:
        super().__init__(child, message)
        self.code = code


class ChildLate(ChildError):
    """The caller's timeout ended before a called model answered, or would end before it could."""

    kind = "late"


class CallerGone(Exception):
    """The caller cancelled its request; nobody waits for the answer."""


class BadParameter(ValueError):
    """The caller's fault: a request parameter has a value that the model does not know."""


class ConfigError(ValueError):
    """The configuration asks for something that cannot be had. The message names the model and the setting."""
