"""What all scripts share: a plain log, and errors in one line."""

import contextlib
import importlib
import itertools
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
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
        with _interruptible():
            return main()
    except InputError as error:
        status, message = 2, str(error)
    except RunError as error:
        status, message = 1, str(error)
    except OSError as error:
        status, message = 1, f"{error.filename or 'writing failed'}: {error.strerror or error}"
    except KeyboardInterrupt:
        status, message = INTERRUPTED_STATUS, INTERRUPTED
    _tell(message)
    sys.exit(status)


def run_command(name: str) -> None:
    """Import one of `animation.commands`, and run it; an interrupt of the import ends as one at work does."""
    run(lambda: importlib.import_module(f"animation.commands.{name}").main())


@contextlib.contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Let a handler take some signals within the context, and afterwards whatever took them before."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in numbers}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def ending_signals() -> list[int]:
    """The signals that ask this process to end; without those that it ignores, as a shell's background job does.

    None outside of the main thread, which alone may handle any.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let a signal end what runs within by Interrupted, whatever error a library makes of that in its midst."""
    _SIGNALS.clear()
    with handled(ending_signals(), _interrupt):
        try:
            yield
        except Exception:
            if _SIGNALS:
                raise Interrupted from None
            raise


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
