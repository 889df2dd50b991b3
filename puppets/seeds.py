"""Which random numbers belong to training and which are held out: two streams that share no seed."""

import zlib

import numpy as np

SPLITS = ("training", "held_out")


def generator(split: str, index: int, what: str) -> np.random.Generator:
    """Random numbers for one thing of one clip. No index reaches from one split into the other.

    Args:
        split: one of `SPLITS`.
        index: 0 or more.
        what: such as `character`: different things of one index are independent.

    Raises:
        ValueError: another split, or a negative index.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; use one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"index {index} is below 0")
    return np.random.default_rng([SPLITS.index(split), index, zlib.crc32(what.encode())])
