"""What all scripts share: a plain log, and errors in one line."""

import contextlib
import importlib
import itertools
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import FrameType

from animation.errors import InputError, RunError

logger = logging.getLogger(__name__)

INTERRUPTED, INTERRUPTED_STATUS = "interrupted; nothing half-written was left", 130
IMPORT_SYSTEM = "<frozen importlib"  # how its files are called in the frames of a stack
_SIGNALS: list[int] = []  # that asked the command at work to end


class Interrupted(KeyboardInterrupt):
    """A signal asked the command to end.

    A class of its own, because Python ends with the status of the signal itself once a plain KeyboardInterrupt has
    passed through `exec`, whoever caught it in the end.
    """


def listed(names: Collection[object], most: int = 20) -> str:
    """Names in one line of the log: the first so many, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, itertools.islice(names, most))) + more


def start_logging(level: int = logging.INFO) -> None:
    """Log one plain line a message, of a level and above, to standard error."""
    logging.basicConfig(level=max(level, logging.WARNING), format="%(message)s")
    for package in ("animation", "DWPose"):
        logging.getLogger(package).setLevel(level)
    for package in ("torchao", "torch.utils._pytree"):  # of kernels for other machines, and of what will be deprecated
        logging.getLogger(package).setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Keep diffusers and transformers to their errors; imports them."""
    import diffusers
    import transformers

    transformers.logging.set_verbosity_error()
    diffusers.logging.set_verbosity_error()


def run(main: Callable[[], None]) -> None:
    """Run a script: bad input ends with one line and status 2, failures at work with one line and status 1.

    An interrupt or a termination signal lets the script put away what is half-written, then ends with status 130.
    """
    try:
        with _signals_interrupt():
            return main()
    except (Exception, KeyboardInterrupt) as error:
        ending = _ending(error)
        if ending is None:
            raise
        status, message = ending
    _tell(message)
    sys.exit(status)


def run_command(name: str) -> None:
    """Import one of `animation.commands`, and run it; an interrupt of the import ends as one at work does."""
    run(lambda: importlib.import_module(f"animation.commands.{name}").main())


def _ending(error: BaseException) -> tuple[int, str] | None:
    """Status and line for what ended a command; None for a defect. After a signal, libraries may raise anything."""
    if _SIGNALS or isinstance(error, KeyboardInterrupt):
        return INTERRUPTED_STATUS, INTERRUPTED
    if isinstance(error, InputError):
        return 2, str(error)
    if isinstance(error, RunError):
        return 1, str(error)
    if isinstance(error, OSError):
        return 1, f"{error.filename or 'writing failed'}: {error.strerror or error}"
    return None


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let signals raise Interrupted here, and have their former effect once the work is done and the process ends."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGINT] is signal.SIG_IGN:  # as of a job in the background of a shell
        del before[signal.SIGINT]
    _SIGNALS.clear()
    try:
        for number in before:
            signal.signal(number, _interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise Interrupted; within an import end at once, as extension modules would swallow it there, or abort."""
    _SIGNALS.append(number)
    while frame is not None:
        if frame.f_code.co_filename.startswith(IMPORT_SYSTEM):
            _tell(INTERRUPTED)
            os._exit(INTERRUPTED_STATUS)  # all can go on, as after SIGKILL
        frame = frame.f_back
    raise Interrupted


def _tell(message: str) -> None:
    """Say in one line what went wrong; one of several processes says it to their launcher, which tells the first."""
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report is None:
        print(f"error: {message}", file=sys.stderr)
    else:
        said = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
        Path(report).write_text(json.dumps({"message": said}), encoding="utf-8")
