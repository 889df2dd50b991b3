"""Networks that are opened once for many clips."""

from collections.abc import Callable
from typing import Any, TypeVar

Network = TypeVar("Network")


class Networks:
    """The detectors, estimators and face networks at hand.

    Args:
        keep: what is opened stays open for whoever wants the same; else each is opened anew, and its memory is free
            again after its use.
    """

    def __init__(self, keep: bool = False):
        self.keep = keep
        self._opened: dict[tuple, Any] = {}

    def open(self, make: Callable[..., Network], *arguments: object) -> Network:
        """What `make` makes of these arguments, unless it is at hand. Raises what `make` does."""
        key = make, *map(str, arguments)
        network = self._opened[key] if key in self._opened else make(*arguments)
        if self.keep:
            self._opened[key] = network
        return network


ANEW = Networks()
