"""Damaged files that coverage guides: an input that reaches new code of a reader is kept and damaged further.

    python -m tests.robustness.guided png --runs 10000

Needs atheris (pip install atheris; Linux). Ends at the first input that a reader does not take well, and keeps it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["animation", "DWPose", "tests.robustness.controls", "zipfile", "numpy.lib", "yaml", "PIL", "json"]
):
    from tests.robustness.fuzzing import ALL, BYTES, SECONDS, unclean

SMALLEST = 4096  # bytes that an input may grow to, however short the whole files are


def main() -> None:
    """Hand a reader to libFuzzer, with whole files to start from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reader", choices=ALL)
    parser.add_argument("--runs", type=int, default=10_000, help="inputs (default: 10000)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")
    parser.add_argument("--keep", type=Path, default=Path("output/robustness"), help="where a bad input is kept")
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder, corpus = Path(name, "read"), Path(name, "corpus")
        folder.mkdir()
        corpus.mkdir()
        seeds = list(ALL[args.reader].seeds())
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)

        def read(data: bytes) -> None:
            path = folder / ALL[args.reader].file
            path.write_bytes(data)
            told = unclean(args.reader, path)
            if told is not None:
                raise RuntimeError(told)

        limits = {
            "runs": args.runs,
            "seed": args.seed,
            "timeout": SECONDS,
            "rss_limit_mb": BYTES >> 20,
            "max_len": max(SMALLEST, 2 * max(map(len, seeds))),
            "artifact_prefix": f"{args.keep}/{args.reader.replace(' ', '-')}-",
        }
        atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in limits.items()), str(corpus)], read)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
