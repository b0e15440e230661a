"""What can go wrong with a child, or with the caller."""

from __future__ import annotations


class ChildFailed(RuntimeError):
    """A called model answered with an error. The message names the model and gives its words."""


class ChildUnavailable(ChildFailed):
    """A called model is not there: not loaded, or its process has died."""


class ChildLate(ChildFailed):
    """The caller's timeout ended before a called model answered."""


class CallerGone(Exception):
    """The caller cancelled its request; nobody waits for the answer."""


class BadParameter(ValueError):
    """The caller's fault: a request parameter has a value that the model does not know."""
