"""The error that bad input raises, here and in everything built on this package."""


class InputError(ValueError):
    """Bad input: one line that says what was wrong, what was received and what to do. Scripts exit with status 2."""
