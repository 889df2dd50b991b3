"""Say what this machine and these folders can do, one line a finding.

    python doctor.py --photo photo.png --driver dance.mp4

Exit status 0, or 1 where there is a problem.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from animation import cli


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--photo", metavar="FILE", help="also look for its face and person")
    parser.add_argument("--driver", metavar="PATH", help="also look at the first frame of a video or a frame folder")
    parser.add_argument("--checkpoints", metavar="DIR", default="checkpoints")
    parser.add_argument("--face_models", metavar="DIR", default="models/antelopev2")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def main() -> None:
    """Parse, look, print."""
    args = build_parser().parse_args()
    cli.quiet_libraries()
    from animation.weights import diagnosis, verification

    checkpoints = Path(args.checkpoints)
    dwpose = checkpoints / "DWPose"
    findings = diagnosis.check_versions() + diagnosis.check_machine(Path())
    findings += verification.check_animation(checkpoints / "Animation", checkpoints / "SVD")
    findings += verification.check_svd(checkpoints / "SVD")
    findings += verification.check_dwpose(dwpose) + verification.check_face_models(args.face_models)
    if args.photo is not None:
        findings.append(diagnosis.check_face(args.photo, args.face_models, str(dwpose)))
    if args.photo is not None or args.driver is not None:
        findings += diagnosis.check_poses(args.photo, args.driver, dwpose)
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print("\n".join(map(str, findings)))
    if any(finding.level == verification.PROBLEM for finding in findings):
        sys.exit(1)
