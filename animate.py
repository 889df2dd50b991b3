"""Animate a photo with a video, in one command.

    python animate.py --photo me.jpg --video dance.mp4 --output out

Writes animation.mp4 with the video's sound, animated_images/ and run.json to the output folder. Killed and started
again with the same command, it goes on where it stopped.
"""

import argparse
from pathlib import Path

from animation import cli, flags
from animation.clip.cases import Processes, check_cases, read_cases
from animation.clip.driver import KINDS
from animation.clip.plan import describe
from animation.clip.settings import ANCHORS, NOISES, PRESETS, ClipSettings
from animation.errors import InputError
from animation.framing import FITS
from animation.writing import check_writable


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=cli.HelpFormatter)
    inputs = parser.add_argument_group("inputs and outputs")
    inputs.add_argument("--photo", metavar="FILE", help="the photo of the person")
    inputs.add_argument(
        "--video", metavar="PATH", help="what drives it: a video file, a folder of frames or of skeletons, or a "
        "keypoints.npz"
    )  # fmt: skip
    inputs.add_argument("--output", metavar="DIR", help="where the results go; made where missing")
    inputs.add_argument("--cases", metavar="FILE", help="many clips in one load of the models: a YAML list or JSONL, "
                        "each case with photo, video and any other flags by name; --output holds a folder for each. "
                        "With `accelerate launch` the cases are shared out")  # fmt: skip
    inputs.add_argument("--driver_kind", choices=KINDS, help="what --video is; left out, it is found out")
    inputs.add_argument("--face", type=int, metavar="N", help="which of several faces in the photo, from the left and "
                        "from 0; left out, the largest")  # fmt: skip
    inputs.add_argument("--face_embedding", metavar="FILE.npy", help="a stored vector of 512 numbers; left out, it is "
                        "computed from the photo")  # fmt: skip
    inputs.add_argument(
        "--size",
        metavar="WxH",
        help="of the canvas that the model works on, multiples of 64 pixels, or auto for the one of 512x512, 576x1024 "
        "and 1024x576 that is nearest the photo's shape; left out, auto",
    )
    inputs.add_argument(
        "--fit",
        choices=FITS,
        help="how the photo is brought on the canvas: cut, padded (the padding is cut off the result), or distorted",
    )
    inputs.add_argument("--fps", type=float, help="frames a second; left out, the driver's (30 of a folder)")
    inputs.add_argument("--start", type=float, metavar="SECONDS", help="where in the driver to begin; left out, at 0")
    inputs.add_argument("--end", type=float, metavar="SECONDS", help="where to end; left out, with the driver")
    inputs.add_argument("--max_seconds", type=float, metavar="SECONDS", help="the clip is at most so long")
    inputs.add_argument("--loop", type=int, metavar="N", help="show the driver's part so many times")
    inputs.add_argument("--no_audio", action="store_true", help="leave the driver's sound out")
    inputs.add_argument("--gif", action="store_true", help="also write animated_images.gif")
    inputs.add_argument("--no_png", action="store_true", help="do not write animated_images/")
    inputs.add_argument("--side_by_side", action="store_true", help="also write photo, driver, skeleton and result "
                        "side by side")  # fmt: skip
    inputs.add_argument("--no_figures", action="store_true", help="do not compare the faces with the photo's")
    inputs.add_argument("--dry_run", action="store_true", help="print what would be done, and stop")
    inputs.add_argument("--again", action="store_true", help="make a clip anew that is there already")

    quality = parser.add_argument_group("quality")
    quality.add_argument(
        "--preset",
        choices=list(PRESETS),
        help="; ".join(f"{name}: {_sets(sets)}" for name, sets in PRESETS.items()) + "; every flag overrides",
    )
    quality.add_argument(
        "--anchor",
        choices=ANCHORS,
        help="the skeleton of the frame that all windows share: the driver's first, or the photo's own, whose frame is "
        "left out of the clip",
    )
    quality.add_argument("--noise", choices=NOISES, help="initial noise: one window's, repeated, or fresh for each")
    quality.add_argument("--color_match", action="store_true", help="give the frames the photo's colours")
    quality.add_argument(
        "--face_optimization",
        action=argparse.BooleanOptionalAction,
        help="draw each frame's face towards the photo's; needs key points",
    )
    flags.add_face_optimization(quality)

    sampling = flags.add_sampling(parser)
    sampling.add_argument(
        "--overlap", "--frames_overlap", dest="frames_overlap", type=int, help="frames that neighbouring windows share"
    )
    flags.add_skeletons(parser)
    weights = flags.add_weights(parser)
    weights.add_argument(
        "--face_embedding_extractor_weight_path", metavar="FILE", help="ArcFace as .pth, .safetensors or .onnx, for "
        "face optimisation"
    )  # fmt: skip
    levers = flags.add_levers(parser)
    levers.add_argument(
        "--max_vram",
        type=float,
        metavar="GB",
        help="of the GPU's memory: picks offload, guidance batching, window and decode chunk to fit, each unless its "
        "own flag is given, and prints what each stage takes and about how long",
    )
    cli.use_defaults(parser, ClipSettings)
    return parser


def _sets(values: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def main() -> None:
    """Parse, check, animate."""
    args = vars(build_parser().parse_args())
    cases_file, dry_run = args.pop("cases"), args.pop("dry_run")
    settings = ClipSettings(**args)
    cli.start_logging()
    processes = Processes.of_environment()
    if cases_file is not None:
        animate_cases(settings, cases_file, processes, dry_run)
        return
    if processes.count > 1:
        raise InputError(f"{processes.count} processes for one clip; several share out the clips of --cases")
    asked, settings = settings, settings.resolve()
    inputs = settings.read_inputs()  # bad input ends here, before torch is imported
    print(describe(settings, inputs))
    cli.quiet_libraries()
    if dry_run or settings.max_vram is not None:
        from animation.clip.fitting import fit

        settings, plan = fit(settings, inputs, asked)
        print(plan.text())
    if dry_run:
        return
    from animation.clip.flow import Models, make_clip

    make_clip(settings, inputs, Models())


def animate_cases(settings: ClipSettings, path: str, processes: Processes, dry_run: bool = False) -> None:
    """Make the clips of a file of cases, or this process's share of them."""
    if settings.output is None:
        raise InputError("--output is missing; with --cases it is the folder that holds a folder for each case")
    contents = read_cases(path)
    check_writable(Path(settings.output))
    cases = check_cases(settings, contents, processes.own)
    if dry_run:
        for case in cases:
            print(f"{case.name}\n{case.error or describe(case.settings, case.inputs)}")
        bad = [case.name for case in cases if case.error is not None]
        if bad:
            raise InputError(f"{len(bad)} of {len(cases)} cases make no sense: {cli.listed(bad)}")
        return
    cli.quiet_libraries()
    from animation.clip.batch import run_cases

    run_cases(cases, settings.output, processes)


if __name__ == "__main__":
    cli.run(main)
