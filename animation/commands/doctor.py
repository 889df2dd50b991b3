"""Say what this machine and these folders can do, one line a finding.

    python doctor.py --photo photo.png --driver dance.mp4

Exit status 0, or 1 where there is a problem.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from animation import cli
from animation.flags import Settings, flag, parse
from animation.weights.layout import checkpoints_in, find_checkpoints


@dataclass(kw_only=True)
class DoctorSettings(Settings):
    """The flags."""

    photo: str | None = flag(None, "also look for its face and person", metavar="FILE")
    face_photo: str | None = flag(None, "look for the face in this picture, not in the photo", metavar="FILE")
    driver: str | None = flag(None, "also look for the people in a video or a folder of frames", metavar="PATH")
    checkpoints: str | None = flag(
        None, "the folder of Animation, SVD and DWPose; left out, the one that all scripts use", metavar="DIR"
    )
    face_models: str | None = flag(
        None, "insightface's antelopev2; left out, the one that all scripts use", metavar="DIR"
    )
    json: bool = flag(False, "print the findings as JSON")


def main() -> None:
    """Parse, look, print."""
    settings = parse(DoctorSettings, __doc__)
    settings.check()
    checkpoints = find_checkpoints()
    if settings.checkpoints is not None:
        checkpoints = checkpoints_in(Path(settings.checkpoints), checkpoints.face_models)
    if settings.face_models is not None:
        checkpoints = replace(checkpoints, face_models=Path(settings.face_models))
    cli.quiet_libraries()
    from animation.weights import diagnosis
    from animation.weights.verification import PROBLEM, guarded, verify

    findings = [*diagnosis.check_versions(diagnosis.tried_versions()), diagnosis.check_networks(checkpoints)]
    findings += diagnosis.check_machine(Path(), checkpoints.tiny)
    findings += verify(checkpoints)
    if kept := settings.face_photo or settings.photo:
        own = settings.face_photo is None
        findings += guarded(diagnosis.FACE_OF[own], diagnosis.check_face(kept, checkpoints, own))
    if settings.photo is not None or settings.driver is not None:
        findings += guarded("poses", diagnosis.check_poses(settings.photo, settings.driver, checkpoints))
    if settings.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(map(str, findings)))
    if any(finding.level == PROBLEM for finding in findings):
        sys.exit(1)
