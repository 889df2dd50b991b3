"""How far a run is, from the progress bars that it prints."""

import re
from dataclasses import dataclass

STAGES = {  # what a run's bars are called, in their order, and what the page calls them
    "finding people": "Finding people",
    "skeletons": "Drawing skeletons",
    "drawing": "Drawing skeletons",
    "denoising": "Sampling",
    "decoding": "Decoding",
    "colours": "Writing",
    "writing": "Writing",
    "side by side": "Side by side",
}
STARTING = "Starting"
NAMES = (STARTING, *dict.fromkeys(STAGES.values()))
# Such as "denoising:  40%|████▏     | 20/50 [01:45<01:48,  3.63s/window]", of tqdm.
BAR = re.compile(r"(?P<name>[a-z ]+): +\d+%\|[^|]*\| (?P<done>\d+)/(?P<all>\d+) \[[\d:]+<(?P<left>[\d:]+|\?)")


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Attributes:
        stage: of `NAMES`.
        done, of: how much of the stage; both 0 where that is not known.
        seconds_left: in this stage; None: not known yet.
    """

    stage: str = STARTING
    done: int = 0
    of: int = 0
    seconds_left: float | None = None

    @property
    def share(self) -> float:
        """How much of the stage is done, 0..1."""
        return min(1.0, self.done / self.of) if self.of else 0.0


def read_bar(text: str) -> Progress | None:
    """The progress that a line of a run's output tells; None where it is no bar."""
    match = BAR.search(text)
    if match is None or match["name"].strip() not in STAGES:
        return None
    left = None
    if match["left"] != "?":
        left = 0.0
        for part in match["left"].split(":"):
            left = 60 * left + int(part)
    return Progress(STAGES[match["name"].strip()], int(match["done"]), int(match["all"]), left)
