"""Which clip each sample of each step takes, and its random numbers: pure functions of the seed and the position.

So the same training comes out of one process or many, with or without gradient accumulation, interrupted or not.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream of random numbers is for; each purpose has streams of its own."""

    BUCKET_ORDER = 0
    CLIP_ORDER = 1
    STRATA = 2
    FRAMES = 3
    NOISE = 4
    REPLACEMENT = 5
    WEIGHTS = 6


def random_stream(seed: int, purpose: Purpose, *position: int) -> np.random.Generator:
    """The random numbers for a purpose at a position, such as a step and a slot in its batch."""
    return np.random.default_rng((seed, purpose, *position))


@dataclass(frozen=True)
class SampleKey:
    """One sample: its step (from 0), its slot in the step's global batch, and the clip it takes.

    Attributes:
        stratum: which of the batch's equal parts of 0…1 its noise level is drawn from.
    """

    step: int
    slot: int
    stratum: int
    bucket: int
    clip: int


class SamplePlan:
    """An endless plan of global batches, each of one bucket.

    Every bucket gives its clips in an endless sequence of shuffled rounds, so that all are seen equally often; an epoch
    has ⌈clips / batch⌉ steps of each bucket, in shuffled order.

    Args:
        bucket_sizes: the number of clips in each bucket.
        batch_size: of the global batch: processes × batch per process × gradient accumulation.
        seed: of everything.
        repeat: every step is the first one, random numbers included.
    """

    def __init__(self, bucket_sizes: Sequence[int], batch_size: int, seed: int, repeat: bool = False):
        self.bucket_sizes, self.batch_size, self.seed, self.repeat = bucket_sizes, batch_size, seed, repeat
        self.steps_of_bucket = [-(-size // batch_size) for size in bucket_sizes]

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every clip is seen at least once."""
        return sum(self.steps_of_bucket)

    def bucket_turn(self, step: int) -> tuple[int, int]:
        """The bucket of a step, and how many steps that bucket has had before."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.repeat(np.arange(len(self.bucket_sizes)), self.steps_of_bucket)
        random_stream(self.seed, Purpose.BUCKET_ORDER, epoch).shuffle(order)
        bucket = int(order[position])
        return bucket, epoch * self.steps_of_bucket[bucket] + int((order[:position] == bucket).sum())

    def samples(self, step: int) -> list[SampleKey]:
        """The global batch of a step."""
        step = 0 if self.repeat else step
        bucket, turn = self.bucket_turn(step)
        size, first = self.bucket_sizes[bucket], turn * self.batch_size
        positions = range(first, first + self.batch_size)
        orders = {
            round_: random_stream(self.seed, Purpose.CLIP_ORDER, bucket, round_).permutation(size)
            for round_ in {position // size for position in positions}
        }
        strata = random_stream(self.seed, Purpose.STRATA, step).permutation(self.batch_size)
        return [
            SampleKey(step, slot, int(strata[slot]), bucket, int(orders[position // size][position % size]))
            for slot, position in enumerate(positions)
        ]


@dataclass(frozen=True)
class MicroBatches:
    """What process `rank` of `processes` computes from `first_step` up to before `last_step`, in small batches."""

    plan: SamplePlan
    first_step: int
    last_step: int
    per_process: int
    rank: int = 0
    processes: int = 1

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.first_step, self.last_step):
            samples = self.plan.samples(step)
            for start in range(self.rank * self.per_process, len(samples), self.per_process * self.processes):
                yield samples[start : start + self.per_process]
