"""Fetch the released checkpoints from the Hugging Face hub into their places.

    python download_weights.py

Shows the sizes and the licences first. Goes on where an interrupted fetch stopped. HF_ENDPOINT names a mirror.
"""

import argparse
import sys
from pathlib import Path

from animation import cli
from animation.errors import InputError, RunError
from animation.weights import download


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    parser.add_argument("--destination", metavar="DIR", default=".", help="the folder of checkpoints/ and models/")
    parser.add_argument(
        "--parts", nargs="+", choices=list(download.PARTS), default=[part for part in download.PARTS if part != "cases"]
    )
    parser.add_argument("--repository", default=download.REPOSITORY, metavar="NAME", help="of that layout, on the hub")
    parser.add_argument("--revision", help="a branch, tag or commit; left out, the newest")
    parser.add_argument("--dry_run", action="store_true", help="show what would be fetched, and stop")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    return parser


def main() -> None:
    """Parse, show, ask, fetch, verify."""
    args = build_parser().parse_args()
    cli.start_logging()
    files = download.plan(download.list_remote_files(args.revision, args.repository), args.destination, args.parts)
    print(download.describe(files))
    for part in args.parts:
        if part in download.LICENCES:
            print(f"licence: {download.LICENCES[part]}")
    if args.dry_run:
        return
    if not args.yes and not _agreed():
        raise InputError("nothing was fetched; answer y, or give --yes")
    download.fetch(files, args.destination, args.revision, args.repository)
    if "cases" in args.parts:
        count = download.unpack_cases(Path(args.destination) / download.CASES_ARCHIVE, Path(args.destination))
        print(f"{count} files of example cases unpacked")
    _verify(Path(args.destination), args.parts)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("fetch these, under these licences? [y/N] ").strip().lower() in ("y", "yes")


def _verify(destination: Path, parts: list[str]) -> None:
    cli.quiet_libraries()
    from animation.weights import verification

    checkpoints = destination / "checkpoints"
    checks = {
        "animation": lambda: verification.check_animation(checkpoints / "Animation", checkpoints / "SVD"),
        "svd": lambda: verification.check_svd(checkpoints / "SVD"),
        "dwpose": lambda: verification.check_dwpose(checkpoints / "DWPose"),
        "antelopev2": lambda: verification.check_face_models(destination / "models" / "antelopev2"),
    }
    findings = [finding for part in parts if part in checks for finding in checks[part]()]
    print("\n".join(map(str, findings)))
    bad = sum(finding.level == verification.PROBLEM for finding in findings)
    if bad:
        raise RunError(f"{bad} of {len(findings)} parts are not what they should be; delete those files and run again")
