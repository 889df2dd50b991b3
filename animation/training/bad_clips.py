"""Clips that a run could not use, known to all of its processes."""

import logging
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from animation.training.check import check_share

logger = logging.getLogger(__name__)


class BadClips:
    """Clips that could not be used, and why.

    Args:
        accelerator: whose processes tell each other.
        total: number of clips in all.
        limit: the share of them, 0..1, that may be unusable.
    """

    def __init__(self, accelerator: Accelerator, total: int, limit: float):
        self.accelerator, self.total, self.limit = accelerator, total, limit
        self.reasons: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, found: Mapping[str, str]) -> None:
        """Add what each process found; all of them call it. Raises InputError where they are too many."""
        new = {clip: reason for clip, reason in found.items() if clip not in self.reasons}
        if self.accelerator.num_processes > 1:
            count = torch.tensor(len(new), device=self.accelerator.device)
            if int(self.accelerator.reduce(count, "sum")) == 0:
                return
            new = dict(gather_object(list(new.items())))
        for clip, reason in new.items():
            logger.info("skipped: %s: %s (%d of %d clips so far)", clip, reason, len(self) + 1, self.total)
            self.reasons[clip] = reason
        check_share(self.reasons, self.total, self.limit)
