"""A check of a data set before any training: what each clip lacks, without torch."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from animation import cli
from animation.errors import InputError
from animation.media.images import same_shape
from animation.training.clips import Bucket, ClipError, read_clip, read_image

logger = logging.getLogger(__name__)

NAMED = 5  # clips named of each kind of finding
NO_SKELETON = "frames without a skeleton, which are left out"
NO_MASK = "frames without a face mask, whose face weighs no more than the rest"
WHITE_MASK = "frames whose mask is white all over, as where no face was found; all of it weighs as a face does"
OTHER_ASPECT = "skeletons of another aspect ratio than their images"


@dataclass
class ClipFindings:
    """What was found in one clip.

    Attributes:
        error: why it cannot be trained on; None where it can.
        frames: with a skeleton.
        sizes: (width, height) of its images, and how many have it.
        flaws: what some of its frames have, in words, and how many have it.
    """

    folder: Path
    error: str | None = None
    frames: int = 0
    sizes: Counter = field(default_factory=Counter)
    flaws: Counter = field(default_factory=Counter)


def _check_clip(folder: Path, least_frames: int) -> ClipFindings:
    """Read every file of a clip."""
    findings = ClipFindings(folder)
    try:
        clip = read_clip(folder, least_frames)
        findings.frames = len(clip.images)
        findings.flaws.update({NO_SKELETON: clip.missing_poses, NO_MASK: clip.missing_masks})
        for image, pose, mask in zip(clip.images, clip.poses, clip.masks, strict=True):
            size = read_image(image).size
            findings.sizes[size] += 1
            findings.flaws[OTHER_ASPECT] += not same_shape(size, read_image(pose).size)
            white = mask is not None and read_image(mask).convert("L").getextrema() == (255, 255)
            findings.flaws[WHITE_MASK] += white
    except ClipError as error:
        findings.error = str(error)
    return findings


def _describe(bucket: Bucket, findings: Sequence[ClipFindings]) -> str:
    """The findings of a bucket's clips in several lines."""
    good = [clip for clip in findings if clip.error is None]
    lines = [f"{bucket} (width × height): {len(good)} of {len(findings)} clips can be trained on"]
    if good:
        lengths = sorted(clip.frames for clip in good)
        median = lengths[len(lengths) // 2]
        lines.append(f"  lengths: {lengths[0]} to {lengths[-1]} frames, median {median}, {sum(lengths)} in all")
        sizes = sum((clip.sizes for clip in good), Counter())
        lines.append("  sizes: " + ", ".join(f"{w}×{h} ({count} frames)" for (w, h), count in sizes.most_common(8)))

    def name(what: str, facts: Iterable[tuple[ClipFindings, object]]) -> None:
        named = [f"{clip.folder} ({fact})" for clip, fact in facts if fact]
        if named:
            lines.append(f"  {what}: {len(named)} clips: {cli.listed(named, NAMED)}")

    def stretched(clip: ClipFindings) -> str:
        return ", ".join(f"{w}×{h}" for w, h in clip.sizes if not same_shape((w, h), (bucket.width, bucket.height)))

    name("cannot be trained on", ((clip, clip.error) for clip in findings))
    for flaw in (NO_SKELETON, NO_MASK, WHITE_MASK, OTHER_ASPECT):
        name(flaw, ((clip, clip.flaws[flaw]) for clip in good))
    name("images stretched to this size", ((clip, stretched(clip)) for clip in good))
    return "\n".join(lines)


def check_data(buckets: Sequence[Bucket], least_frames: int, max_bad_clips: float, workers: int) -> str:
    """Read every file of every clip, with so many threads, and describe what was found in several lines.

    Raises:
        InputError: more clips than the share `max_bad_clips`, 0..1, cannot be used; what was found is logged.
    """
    folders = [folder for bucket in buckets for folder in bucket.clips]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(partial(_check_clip, least_frames=least_frames), folders)
        findings = list(tqdm(results, total=len(folders), desc="checking", unit="clip"))
    rest = iter(findings)
    text = "\n".join(_describe(bucket, list(islice(rest, len(bucket.clips)))) for bucket in buckets)
    try:
        check_share({str(clip.folder): clip.error for clip in findings if clip.error}, len(findings), max_bad_clips)
    except InputError:
        logger.info(text)
        raise
    return text


def check_share(bad_clips: Mapping[str, str], total: int, max_bad_clips: float) -> None:
    """Raise InputError, with some reasons, where more than the share `max_bad_clips` of all clips cannot be used."""
    if len(bad_clips) > max_bad_clips * total:
        named = "; ".join(f"{clip}: {reason}" for clip, reason in list(bad_clips.items())[:3])
        raise InputError(
            f"{len(bad_clips)} of {total} clips cannot be used, more than the share of {max_bad_clips:g} that "
            f"--max_bad_clips allows; mend or remove them ({named}{'; …' if len(bad_clips) > 3 else ''})"
        )
