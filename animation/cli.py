"""What all scripts share: a plain log, and errors in one line."""

import itertools
import logging
import signal
import sys
from collections.abc import Callable, Collection

from animation.errors import InputError, RunError

logger = logging.getLogger(__name__)


def listed(names: Collection[object], most: int = 20) -> str:
    """Names in one line of the log: the first so many, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, itertools.islice(names, most))) + more


def start_logging() -> None:
    """Log one plain line a message to standard error."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package in ("animation", "DWPose"):
        logging.getLogger(package).setLevel(logging.INFO)


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
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return main()
    except InputError as error:
        status, message = 2, str(error)
    except RunError as error:
        status, message = 1, str(error)
    except OSError as error:
        status, message = 1, f"{error.filename or 'writing failed'}: {error.strerror or error}"
    except KeyboardInterrupt:
        status, message = 130, "interrupted; nothing half-written was left"
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
