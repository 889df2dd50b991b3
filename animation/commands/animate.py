"""Animate a photo with a video, in one command.

    python animate.py --photo me.jpg --video dance.mp4 --output out

Writes animation.mp4 with the video's sound, animated_images/ and run.json to the output folder. Killed and started
again with the same command, it goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from animation import cli
from animation.clip.cases import Case, check_cases, read_cases
from animation.clip.plan import describe, fit
from animation.clip.request import clear, finished
from animation.clip.settings import ClipSettings
from animation.cluster import Cluster
from animation.errors import InputError
from animation.flags import flag, parse
from animation.media.writing import check_writable
from animation.parallel import Processes


@dataclass(kw_only=True)
class AnimateSettings(ClipSettings, Cluster):
    """The flags of this script that are not a clip's."""

    cases: str | None = flag(
        None,
        "many clips in one load of the models: a YAML list, each case with photo, video and any other flags by name; "
        "--output holds a folder for each. With --ray they are shared out",
        metavar="FILE",
    )
    dry_run: bool = flag(False, "print what would be done, and stop")


def main() -> None:
    """Parse, check, animate."""
    processes = Processes.of_environment()
    cli.start_logging(processes.log_level)
    flags = parse(AnimateSettings, __doc__)
    cases_file, dry_run = flags.cases, flags.dry_run
    settings = ClipSettings(**flags.shared(ClipSettings))
    if cases_file is not None:
        if processes.count > 1:
            raise InputError(f"--cases for {processes.count} processes: these make one clip together; --ray makes many")
        animate_cases(settings, cases_file, Cluster(**flags.shared(Cluster)), dry_run)
        return
    if flags.ray is not None:
        raise InputError("--ray shares out the clips of --cases; python -m animation.launch makes one on several GPUs")
    asked, settings = settings, settings.resolve()
    inputs = settings.read_inputs()  # bad input ends here, before torch is imported
    if not dry_run and finished(settings, inputs):
        if processes.is_first:
            clear(settings)
        processes.print(f"{settings.output}: the clip is there already, made of the same; --again makes it anew")
        return
    processes.print(describe(settings, inputs, processes.count))  # at once: importing torch takes seconds
    cli.quiet_libraries()
    if dry_run or settings.max_vram is not None:
        settings, plan = fit(settings, inputs, asked)
        processes.print(plan.text())
    if dry_run:
        return
    from animation.clip.flow import Models, make_clip

    make_clip(settings, inputs, Models(processes))


def animate_cases(settings: ClipSettings, path: str, cluster: Cluster, dry_run: bool = False) -> None:
    """Make the clips of a file of cases."""
    if settings.output is None:
        raise InputError("--output is missing; with --cases it is the folder that holds a folder for each case")
    cluster.check()
    contents = read_cases(path)
    check_writable(Path(settings.output))
    cases = check_cases(settings, contents, keep_inputs=cluster.ray is None or dry_run)
    if dry_run:
        plan_cases(cases)
        return
    cli.quiet_libraries()
    from animation.clip.batch import run_cases

    run_cases(cases, settings.output, cluster)


def plan_cases(cases: Sequence[Case]) -> None:
    """Print what each clip would take. Raises InputError where some make no sense or do not fit."""
    for case in cases:
        told = describe(case.settings, case.inputs) if case.settings and case.inputs else case.error
        print(f"{case.name}\n{told}", flush=True)
    cli.quiet_libraries()
    for case in cases:
        if case.settings and case.inputs and case.asked:
            try:
                told = fit(case.settings, case.inputs, case.asked)[1].text()
            except InputError as error:
                told = case.error = str(error)
            print(f"{case.name}\n{told}", flush=True)
    bad = [case.name for case in cases if case.error is not None]
    if bad:
        raise InputError(f"{len(bad)} of {len(cases)} cases make no sense: {cli.listed(bad)}")
