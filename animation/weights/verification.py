"""Whether checkpoints are whole and what they should be: each file's names and shapes, without running a network."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from animation.errors import InputError

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass
class Finding:
    """One line of a report.

    Attributes:
        level: `ok`, `warning` or `problem`.
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


def check_animation(folder: str | Path, svd_folder: str | Path) -> list[Finding]:
    """The method's own parts. The UNet's sizes stand in Stable Video Diffusion's folder."""
    from animation.weights import loading

    folder = Path(folder)

    def unet() -> str:
        """The large one."""
        return _parameters(loading.load_unet(folder / "unet.pth", loading.resolve_svd_folder(svd_folder)))

    return [
        check("pose_net", lambda: _parameters(loading.load_pose_net(folder / "pose_net.pth"))),
        check("face_encoder", lambda: _parameters(loading.load_face_encoder(folder / "face_encoder.pth"))),
        check("unet", unet),
    ]


def check_svd(folder: str | Path) -> list[Finding]:
    """What is used of Stable Video Diffusion's folder."""
    from animation.weights import loading

    def part(load: Callable, name: str) -> str:
        """One of the folder's parts."""
        return _parameters(load(loading.resolve_svd_folder(folder) / name))

    return [
        check("vae", lambda: part(loading.load_vae, "vae")),
        check("image_encoder", lambda: part(loading.load_image_encoder, "image_encoder")),
        check("scheduler", lambda: part(loading.load_scheduler, "scheduler")),
    ]


def _parameters(found) -> str:
    if not hasattr(found, "parameters"):
        return "as it should be"
    return f"{sum(p.numel() for p in found.parameters()) / 1e6:.2f} M parameters, names and shapes as they should be"


def check_dwpose(folder: str | Path) -> list[Finding]:
    """The two networks of skeletons."""
    from DWPose.detector import PersonDetector
    from DWPose.pose import PoseEstimator
    from DWPose.wholebody import MODEL_FILES

    def opens(network, name: str) -> Callable[[], str]:
        def work() -> str:
            return f"inputs and outputs as they should be, on {network(Path(folder) / name).session.get_providers()[0]}"

        return work

    return [
        check("person detector", opens(PersonDetector, MODEL_FILES[0])),
        check("pose estimator", opens(PoseEstimator, MODEL_FILES[1])),
    ]


def check_face_models(folder: str | Path) -> list[Finding]:
    """Face detector and recogniser, opened as they will be."""
    from animation.face.detection import FaceFinder, find_face_models

    def work() -> str:
        FaceFinder(folder)
        return f"detector and recogniser open, in {find_face_models(folder)}"

    return [check("face models", work)]
