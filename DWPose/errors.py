"""The one error that a user of this package can act on."""


class PoseError(ValueError):
    """Bad input: one line that says what was wrong, what was received and what to do."""
