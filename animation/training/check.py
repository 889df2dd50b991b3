"""A check of a data set before any training: what each clip lacks, without torch."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from animation import cli
from animation.errors import InputError
from animation.training.clips import Bucket, ClipError, read_clip, read_image

logger = logging.getLogger(__name__)

ASPECT_TOLERANCE = 0.02
NAMED = 5  # clips named of each kind of finding


@dataclass
class ClipFindings:
    """What was found in one clip.

    Attributes:
        error: why it cannot be trained on; None where it can.
        frames: with a skeleton.
        sizes: (width, height) of its images, and how many have it.
        missing_poses, missing_masks: frames without one.
        white_masks: frames whose mask is white all over, which is what mask extraction leaves where it finds no face.
        pose_sizes_differ: frames whose skeleton has another aspect ratio than the image.
    """

    folder: Path
    error: str | None = None
    frames: int = 0
    sizes: Counter = field(default_factory=Counter)
    missing_poses: int = 0
    missing_masks: int = 0
    white_masks: int = 0
    pose_sizes_differ: int = 0


def _same_aspect(size: tuple[int, int], other: tuple[int, int]) -> bool:
    return abs(size[0] / size[1] * other[1] / other[0] - 1) <= ASPECT_TOLERANCE


def check_clip(folder: Path, least_frames: int) -> ClipFindings:
    """Read every file of a clip."""
    findings = ClipFindings(folder)
    try:
        clip = read_clip(folder, least_frames)
        findings.frames = len(clip)
        findings.missing_poses, findings.missing_masks = clip.missing_poses, clip.missing_masks
        for image, pose, mask in zip(clip.images, clip.poses, clip.masks, strict=True):
            size = read_image(image).size
            findings.sizes[size] += 1
            findings.pose_sizes_differ += not _same_aspect(size, read_image(pose).size)
            findings.white_masks += mask is not None and read_image(mask).convert("L").getextrema() == (255, 255)
    except ClipError as error:
        findings.error = str(error)
    return findings


def describe_bucket(bucket: Bucket, findings: Sequence[ClipFindings]) -> list[str]:
    """The findings of a bucket's clips as lines of text."""
    good = [clip for clip in findings if clip.error is None]
    lengths = sorted(clip.frames for clip in good)
    lines = [f"{bucket} (width × height): {len(good)} of {len(findings)} clips can be trained on"]
    if lengths:
        lines.append(
            f"  lengths: {lengths[0]} to {lengths[-1]} frames, median {lengths[len(lengths) // 2]}, "
            f"{sum(lengths)} in all"
        )
        sizes = sum((clip.sizes for clip in good), Counter())
        lines.append("  sizes: " + ", ".join(f"{w}×{h} ({count} frames)" for (w, h), count in sizes.most_common(8)))

    def name(what: str, clips: Iterable[tuple[ClipFindings, object]]) -> None:
        """Add a line with a kind of finding and the clips that have it."""
        clips = list(clips)
        if clips:
            named = cli.listed([f"{clip.folder} ({fact})" for clip, fact in clips], NAMED)
            lines.append(f"  {what}: {len(clips)} clips: {named}")

    size = (bucket.width, bucket.height)
    others = [(clip, [f"{w}×{h}" for w, h in clip.sizes if not _same_aspect((w, h), size)]) for clip in good]
    stretched = [(clip, ", ".join(sizes)) for clip, sizes in others if sizes]
    name("cannot be trained on", ((clip, clip.error) for clip in findings if clip.error is not None))
    name(
        "frames without a skeleton, which are left out",
        ((clip, clip.missing_poses) for clip in good if clip.missing_poses),
    )
    name(
        "frames without a face mask, whose face weighs no more than the rest",
        ((clip, clip.missing_masks) for clip in good if clip.missing_masks),
    )
    name(
        "frames whose mask is white all over, as where no face was found; all of such a frame weighs twice",
        ((clip, clip.white_masks) for clip in good if clip.white_masks),
    )
    name(
        "skeletons of another aspect ratio than their images",
        ((clip, clip.pose_sizes_differ) for clip in good if clip.pose_sizes_differ),
    )
    name("images stretched to this size", stretched)
    return lines


def check_data(buckets: Sequence[Bucket], least_frames: int, max_bad_clips: float, workers: int) -> str:
    """Read every file of every clip and describe what was found.

    Args:
        least_frames: how many frames a clip must have.
        max_bad_clips: the share of clips, 0..1, that may be unusable.
        workers: threads that read.

    Returns:
        The description, several lines.

    Raises:
        InputError: more clips than that share cannot be used.
    """
    jobs = [(bucket, folder) for bucket in buckets for folder in bucket.clips]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        results = pool.map(lambda job: check_clip(job[1], least_frames), jobs)
        findings = list(tqdm(results, total=len(jobs), desc="checking", unit="clip"))
    lines, start = [], 0
    for bucket in buckets:
        lines += describe_bucket(bucket, findings[start : start + len(bucket.clips)])
        start += len(bucket.clips)
    text = "\n".join(lines)
    check_share({str(clip.folder): clip.error for clip in findings if clip.error}, len(findings), max_bad_clips, text)
    return text


def check_share(bad_clips: dict[str, str], total: int, max_bad_clips: float, text: str = "") -> None:
    """Raise InputError where more than a share of clips cannot be used; its message ends with a few of them.

    Args:
        bad_clips: clips and why they cannot be used.
        total: number of clips in all.
        max_bad_clips: the share that may be.
        text: logged first.
    """
    if len(bad_clips) <= max_bad_clips * total:
        return
    if text:
        logger.info("%s", text)
    named = "; ".join(f"{clip}: {reason}" for clip, reason in list(bad_clips.items())[:3])
    raise InputError(
        f"{len(bad_clips)} of {total} clips cannot be used, more than the share of {max_bad_clips:g} that "
        f"--max_bad_clips allows; mend or remove them ({named}{'; …' if len(bad_clips) > 3 else ''})"
    )
