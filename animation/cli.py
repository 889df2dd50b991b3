"""What all scripts share: grouped help with real defaults, a plain log, and errors in one line."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields

from animation.errors import InputError, RunError

logger = logging.getLogger(__name__)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows each flag's default, unless there is none to speak of, and keeps the description's lines."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False) or action.required:
            return action.help
        return super()._get_help_string(action)


def use_defaults(parser: argparse.ArgumentParser, settings: type) -> None:
    """Give the flags the defaults of the fields of a settings dataclass, which they are named as."""
    parser.set_defaults(**{field.name: field.default for field in fields(settings) if field.default is not MISSING})


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
