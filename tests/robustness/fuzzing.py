"""Damaged files, given to every reader in processes of their own, with limits of memory and time.

    python -m tests.robustness.fuzzing READER FIRST LAST FOLDER

reads the inputs of those numbers, and prints a line of JSON for each that does not end well or with one line.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from animation.errors import InputError, RunError
from tests.robustness.controls import CONTROLS
from tests.robustness.readers import READERS

SECONDS, BYTES = int(os.environ.get("FUZZING_SECONDS", 20)), 4 << 30  # that one input may take
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF]
TOKENS = [b"-1", b"0", b"1e999", b"NaN", b"null", b"[]", b"{}", b"[[", b'""', b"9" * 40, b"\x00", b"\xff", b"\n", b"*a"]
ALL = READERS | CONTROLS


def mutate(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, damaged in one to five places, more often near its ends, where the structure is."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        size = len(data)
        place = int(size * rng.choice((rng.random(), rng.random() ** 4, 1 - rng.random() ** 4)))
        length = rng.choice((1, 2, 4, 8, rng.randrange(1, 64)))
        what = rng.randrange(9)
        if what == 0 and data:
            data[min(place, size - 1)] ^= 1 << rng.randrange(8)
        elif what == 1:
            data[place : place + length] = rng.randbytes(length)
        elif what == 2:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice(INTERESTING) & ((1 << 8 * width) - 1)
            data[place : place + width] = number.to_bytes(width, rng.choice(("little", "big")))
        elif what == 3:
            del data[place : place + length]
        elif what == 4:
            data[place:place] = rng.randbytes(length)
        elif what == 5:
            data[place:place] = data[place : place + length] * rng.choice((1, 2, 100))
        elif what == 6:
            del data[place:]
        elif what == 7:
            other = rng.choice(seeds)
            data[place:] = other[int(len(other) * rng.random()) :]
        else:
            data[place : place + rng.choice((0, length))] = rng.choice(TOKENS)
    return bytes(data)


def make_input(reader: str, number: int, seeds: Sequence[bytes]) -> bytes:
    """The input of a number, always the same; number 0 is a whole file."""
    return seeds[0] if number == 0 else mutate(random.Random(f"{reader} {number}"), seeds)


def unclean(reader: str, path: Path) -> str | None:
    """What is wrong with how a reader takes a file; None where it reads it, or says in one line why not."""
    before = sorted(path.parent.iterdir())
    try:
        ALL[reader].read(path)
    except (InputError, RunError) as error:
        if "\n" in str(error).strip() or not str(error):
            return f"more than one line, or none: {error!r}"
    except BaseException:
        return traceback.format_exc()
    left = set(path.parent.iterdir()) - set(before)
    return f"left behind: {sorted(file.name for file in left)}" if left else None


def problem(reader: str, path: Path) -> str | None:
    """The same, with a limit of time that ends this process."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor; it ends the process, whatever library it is in
    signal.alarm(5 * SECONDS)  # where it waits, or other work takes the processor
    try:
        return unclean(reader, path)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def limit_memory() -> None:
    """Let this process take so many bytes more than it has."""
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def work(reader: str, first: int, last: int, folder: Path) -> None:
    """Read inputs, and say which is at hand and what is wrong."""
    seeds = list(ALL[reader].seeds())
    limit_memory()
    os.chdir(folder)
    for number in range(first, last):
        content = make_input(reader, number, seeds)
        path = folder / ALL[reader].file
        path.write_bytes(content)
        print(json.dumps({"at": number}), flush=True)
        found = problem(reader, path)
        if found is not None:
            print(json.dumps({"number": number, "problem": found}), flush=True)
        path.unlink()


def fuzz(reader: str, first: int, last: int, log: Path | None = None) -> dict[int, str]:
    """What is wrong with a reader, by the number of the input; one that ends its process is passed over.

    Args:
        log: gets what the process says beside, for a look where something is wrong.
    """
    found: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        stderr = stack.enter_context(log.open("ab")) if log is not None else subprocess.DEVNULL
        while first < last:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            command = [sys.executable, "-m", __spec__.name if __name__ == "__main__" else __name__]
            numbers = [reader, str(first), str(last), folder]
            ended = subprocess.run([*command, *numbers], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
            lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
            found |= {line["number"]: line["problem"] for line in lines if "number" in line}
            if ended.returncode == 0:
                break
            reached = [line["at"] for line in lines if "at" in line]
            if not reached:
                raise RuntimeError(f"the process for {reader} did not start; status {ended.returncode}")
            found[reached[-1]] = f"the process ended with status {ended.returncode}"
            first = reached[-1] + 1
    return found


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
