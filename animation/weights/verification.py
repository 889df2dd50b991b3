"""Whether checkpoints are whole and what they should be: each file's names and shapes, without running a network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animation.errors import InputError
from animation.weights.layout import Checkpoints

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"


@dataclass
class Finding:
    """One line of a report.

    Attributes:
        level: `ok`, `note` (all is well, and worth knowing), `warning` or `problem`.
        subject: what was looked at.
        text: what was found.
        remedy: what to do about it; empty where all is well.
    """

    level: str
    subject: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level:8} {self.subject}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def check(subject: str, work: Callable[[], str]) -> Finding:
    """What `work` says, or the error in one line that it raised."""
    try:
        return Finding(OK, subject, work())
    except InputError as error:
        text, _, remedy = str(error).rpartition("; ")
        return Finding(PROBLEM, subject, text or remedy, remedy if text else "")
    except OSError as error:
        return Finding(PROBLEM, subject, f"cannot be read ({error.strerror or error})", "check the file and the disk")


def check_animation(checkpoints: Checkpoints) -> list[Finding]:
    """The method's own parts. The UNet's sizes stand in Stable Video Diffusion's folder."""
    from animation.weights import loading

    return [
        check("pose_net", lambda: _parameters(loading.load_pose_net(checkpoints.pose_net))),
        check("face_encoder", lambda: _parameters(loading.load_face_encoder(checkpoints.face_encoder))),
        check("unet", lambda: _parameters(loading.load_unet(checkpoints.unet, checkpoints.svd))),
    ]


def check_svd(checkpoints: Checkpoints) -> list[Finding]:
    """What is used of Stable Video Diffusion's folder."""
    from animation.weights import loading

    def part(load: Callable, name: str) -> str:
        return _parameters(load(loading.resolve_svd_folder(checkpoints.svd) / name))

    return [
        check("vae", lambda: part(loading.load_vae, "vae")),
        check("image_encoder", lambda: part(loading.load_image_encoder, "image_encoder")),
        check("scheduler", lambda: part(loading.load_scheduler, "scheduler")),
    ]


def _parameters(found: Any) -> str:
    if not hasattr(found, "parameters"):
        return "as it should be"
    return f"{sum(p.numel() for p in found.parameters()) / 1e6:.2f} M parameters, names and shapes as they should be"


def check_dwpose(checkpoints: Checkpoints) -> list[Finding]:
    """The two networks of skeletons."""
    from DWPose.detector import PersonDetector
    from DWPose.pose import PoseEstimator

    def opens(network: type[PersonDetector] | type[PoseEstimator], path: Path) -> str:
        return f"inputs and outputs as they should be, on {network(path).session.get_providers()[0]}"

    return [
        check("person detector", lambda: opens(PersonDetector, checkpoints.detector)),
        check("pose estimator", lambda: opens(PoseEstimator, checkpoints.pose_estimator)),
    ]


def check_face_models(checkpoints: Checkpoints) -> list[Finding]:
    """Face detector and recogniser, opened as they will be."""
    from animation.face.detection import FaceFinder, find_face_models

    def work() -> str:
        FaceFinder(checkpoints.face_models)
        return f"detector and recogniser open, in {find_face_models(checkpoints.face_models)}"

    return [check("face models", work)]


CHECKS = {"animation": check_animation, "svd": check_svd, "dwpose": check_dwpose, "antelopev2": check_face_models}
