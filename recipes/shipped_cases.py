"""The cases of inference/, from their seeds.

python -m recipes.shipped_cases
"""

import argparse
import shutil
from pathlib import Path

from animation import cli
from puppets.writing import Format, write_case

FORM = Format(width=128, height=128, num_frames=16)
CASES = {"case-1": (9, "same"), "case-2": (1, "cross"), "case-3": (6, "hidden")}  # number and kind of `write_case`


def main() -> None:
    """Write the cases anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("inference"), help="the folder of the cases")
    args = parser.parse_args()
    for name, (index, kind) in CASES.items():
        shutil.rmtree(args.output / name, ignore_errors=True)
        write_case(args.output / name, index, FORM, kind, roams=True)


if __name__ == "__main__":
    cli.run(main)
