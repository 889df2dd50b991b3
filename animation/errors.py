"""Errors that a user can act on."""

from DWPose.errors import InputError as InputError


class CheckpointError(InputError):
    """A weights file that is missing, damaged, dangerous or of another model."""


class RunError(RuntimeError):
    """Work that failed with good input, and what to try: one line. Scripts exit with status 1."""


class NonFiniteError(RunError):
    """NaN or infinity where numbers were due: says at which step or in which frames."""
