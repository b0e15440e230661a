"""The one error that a command shows as a sentence instead of a traceback."""


class UserError(Exception):
    """Wrong use, or nothing to run on. The message says what was expected, what was found, and the next step."""
