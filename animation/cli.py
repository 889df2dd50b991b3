"""What all scripts share: a plain log, and errors in one line."""

import logging
import signal
import sys
from collections.abc import Callable, Sequence

from animation.errors import InputError, RunError

logger = logging.getLogger(__name__)


def listed(names: Sequence[object], most: int = 20) -> str:
    """Names in one line of the log: the first so many, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def start_logging() -> None:
    """Log one plain line a message to standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package in ("animation", "DWPose"):
        logging.getLogger(package).setLevel(logging.INFO)


def quiet_libraries() -> None:
    """Keep diffusers and transformers to their errors; imports them."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()


def run(main: Callable[[], None]) -> None:
    """Run a script: bad input ends with one line and status 2, failures at work with one line and status 1.

    An interrupt or a termination signal lets the script put away what is half-written, then ends with status 130.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except InputError as error:
        sys.exit(_say(error, 2))
    except RunError as error:
        sys.exit(_say(error, 1))
    except OSError as error:
        sys.exit(_say(f"{error.filename or 'writing failed'}: {error.strerror or error}", 1))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; nothing half-written was left", 130))


def _say(message: object, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
