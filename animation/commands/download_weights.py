"""Fetch the released checkpoints from the Hugging Face hub into their places.

    python download_weights.py

Shows the sizes and the licences first. Run again, it resumes an interrupted fetch. HF_ENDPOINT names a mirror.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from animation import cli
from animation.errors import InputError, RunError
from animation.flags import Settings, flag, parse
from animation.weights import download, layout


@dataclass(kw_only=True)
class DownloadSettings(Settings):
    """The flags."""

    destination: str | None = flag(
        None,
        "the folder of checkpoints/ and models/; left out, $STABLEANIMATOR_HOME, else the working directory or source "
        "checkout that holds them",
        metavar="DIR",
    )
    parts: list[str] = flag(
        [part for part in download.PARTS if part != "cases"],
        f"some of {', '.join(download.PARTS)}; left out, all but cases",
        metavar="PART",
    )
    repository: str = flag(download.REPOSITORY, "a repository of that layout on the hub")
    revision: str | None = flag(None, "a branch, tag or commit; left out, the newest")
    dry_run: bool = flag(False, "show what would be fetched, and stop")
    yes: bool = flag(False, "do not ask")


def main() -> None:
    """Parse, show, ask, fetch, verify."""
    cli.start_logging()
    settings = parse(DownloadSettings, __doc__)
    settings.check()
    destination = Path(settings.destination or layout.download_folder())
    files = download.plan(settings.parts, destination, settings.repository, settings.revision)
    print(download.describe(files))
    if settings.dry_run:
        return
    asked = "fetch these, under these licences? [y/N] "
    if not settings.yes and not (sys.stdin.isatty() and input(asked).strip().lower() in ("y", "yes")):
        raise InputError("nothing was fetched; answer y, or give --yes")
    download.fetch(files, destination, settings.repository)
    if "cases" in settings.parts:
        count = download.unpack_cases(destination / download.CASES_ARCHIVE, destination)
        print(f"{count} files of example cases unpacked")
    cli.quiet_libraries()
    from animation.weights.verification import PROBLEM, verify

    findings = verify(layout.released(destination), settings.parts)
    print("\n".join(map(str, findings)))
    bad = sum(finding.level == PROBLEM for finding in findings)
    if bad:
        raise RunError(f"{bad} of {len(findings)} parts are not what they should be; delete those files and run again")
