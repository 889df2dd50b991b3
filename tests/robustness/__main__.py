"""The long part of the robustness tests: damaged files for every reader, in rounds, for as long as is wanted.

    python -m tests.robustness --minutes 60

Prints a table, and keeps what a reader did not take well, to look at and to add to tests/robustness/corpus.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.robustness.fuzzing import fuzz, make_input
from tests.robustness.readers import READERS


def main() -> int:
    """Fuzz all readers in turn; the status says whether all inputs ended well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS), help="which (default: all)")
    parser.add_argument("--round", type=int, default=500, help="inputs of a reader before the next (default: 500)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--keep", type=Path, default=Path("output/robustness"), help="where bad inputs are kept")
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    end, number, read, bad = time.monotonic() + 60 * args.minutes, args.first, dict.fromkeys(args.readers, 0), 0
    while time.monotonic() < end:
        for reader in args.readers:
            if time.monotonic() >= end:
                break
            found = fuzz(reader, number, number + args.round, args.keep / "log.txt")
            read[reader], bad = read[reader] + args.round, bad + len(found)
            print(
                f"{reader}: {read[reader]} inputs to number {number + args.round}, {len(found)} ended badly", flush=True
            )
            for place, problem in found.items():
                print(f"{reader} {place}: {problem.strip().splitlines()[-1]}", flush=True)
                name = f"{reader.replace(' ', '-')}-{place}"
                (args.keep / name).write_bytes(make_input(reader, place, list(READERS[reader].seeds())))
                (args.keep / f"{name}.txt").write_text(problem)
        number += args.round
    print(f"{sum(read.values())} inputs, {bad} ended badly")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
