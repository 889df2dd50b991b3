"""A tune for a clip, so that its video has sound: plucked notes on a beat, from an index."""

import numpy as np

from puppets.seeds import generator

RATE = 48000  # samples a second
SCALE = (0, 2, 4, 7, 9, 12, 14, 16)  # semitones above the root: pentatonic, on which any tune sounds well
ROOT = 220.0  # Hz
BEAT = 0.25  # seconds a note
DECAY = 6.0  # a second, of a note's loudness


def make_tune(split: str, index: int, seconds: float) -> np.ndarray:
    """The tune of a clip's index, always the same, (1, 48000 · seconds) int16."""
    rng = generator(split, index, "tune")
    time = np.arange(round(seconds * RATE)) / RATE
    beats, within = np.divmod(time, BEAT)
    steps = np.clip(np.cumsum(rng.integers(-2, 3, int(seconds / BEAT) + 1)) + 3, 0, len(SCALE) - 1)
    pitch = ROOT * 2 ** (np.array(SCALE)[steps[beats.astype(int)]] / 12)
    envelope = np.exp(-DECAY * within) * np.minimum(1, within / 0.005)
    wave = np.sin(2 * np.pi * pitch * within) + 0.4 * np.sin(4 * np.pi * pitch * within)
    return (0.35 * 32767 / 1.4 * envelope * wave).astype(np.int16)[None]
