"""Whether checkpoints are whole and what they should be: each file's names and shapes, without running a network."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from animation.errors import InputError
from animation.face.detection import FaceFinder, find_face_models
from animation.weights import loading
from animation.weights.layout import Checkpoints
from DWPose.detector import PersonDetector
from DWPose.pose import PoseEstimator

OK, NOTE, WARNING, PROBLEM = "ok", "note", "warning", "problem"


@dataclass
class Finding:
    """One line of a report."""

    level: str  # `ok`, `note` (all is well, and worth knowing), `warning` or `problem`
    subject: str  # what was looked at
    text: str  # what was found
    remedy: str = ""  # what to do about it

    def __str__(self) -> str:
        return f"{self.level:8} {self.subject}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def guarded(subject: str, findings: Iterable[Finding]) -> Iterator[Finding]:
    """Pass on findings as they are made, and the error that ends them as a finding about `subject`."""
    try:
        yield from findings
    except InputError as error:
        text, _, remedy = str(error).rpartition("; ")
        yield Finding(PROBLEM, subject, text or remedy, remedy if text else "")
    except OSError as error:
        yield Finding(PROBLEM, subject, f"cannot be read ({error.strerror or error})", "check the file and the disk")


def _parameters(model: Any) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{count / 1e6:.2f} M parameters, names and shapes as they should be"


def _svd_part(name: str, checkpoints: Checkpoints) -> str:
    part = getattr(loading, f"load_{name}")(loading.resolve_svd_folder(checkpoints.svd) / name)
    return _parameters(part) if hasattr(part, "parameters") else "as it should be"


def _opens(network: PersonDetector | PoseEstimator) -> str:
    return f"inputs and outputs as they should be, on {network.session.get_providers()[0]}"


def _face_models_open(checkpoints: Checkpoints) -> str:
    FaceFinder(checkpoints.face_models)
    return f"detector and recogniser open, in {find_face_models(checkpoints.face_models)}"


# By part of a download and subject. The UNet's sizes stand in Stable Video Diffusion's folder.
CHECKS: dict[str, dict[str, Callable[[Checkpoints], str]]] = {
    "animation": {
        "pose_net": lambda found: _parameters(loading.load_pose_net(found.pose_net)),
        "face_encoder": lambda found: _parameters(loading.load_face_encoder(found.face_encoder)),
        "unet": lambda found: _parameters(loading.load_unet(found.unet, found.svd)),
    },
    "svd": {name: partial(_svd_part, name) for name in ("vae", "image_encoder", "scheduler")},
    "dwpose": {
        "person detector": lambda found: _opens(PersonDetector(found.detector)),
        "pose estimator": lambda found: _opens(PoseEstimator(found.pose_estimator)),
    },
    "antelopev2": {"face models": _face_models_open},
}


def verify(checkpoints: Checkpoints, parts: Iterable[str] = CHECKS) -> list[Finding]:
    """Open every network of these parts; a part without networks is passed over."""

    def look(subject: str, work: Callable[[Checkpoints], str]) -> Iterator[Finding]:
        yield Finding(OK, subject, work(checkpoints))

    checks = [check for part in parts for check in CHECKS.get(part, {}).items()]
    return [finding for subject, work in checks for finding in guarded(subject, look(subject, work))]
