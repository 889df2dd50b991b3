"""`accelerate launch` that ends as the script that it started: its one line, and its status.

    python -m animation.launch --multi_gpu --num_processes 4 animate.py --photo me.jpg --video dance.mp4 --output out
    python -m animation.launch train.py --data_root_path animation_data --output_dir output/train

It takes the flags of `accelerate launch` before the script. On one machine it picks a free port, so that several can
run beside each other; accelerate would take port 29500. Where a process fails it ends the others, and says in one line
what the first failure was; accelerate itself ends with status 1 whatever happened.
"""

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from animation.cli import INTERRUPTED, INTERRUPTED_STATUS


def main() -> None:
    """Start the processes, and end with the line and the status of the first that failed."""
    from accelerate.commands.config.config_args import default_config_file
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils.other import get_free_port
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args()
    configured = arguments.config_file or Path(default_config_file).is_file()
    if not configured and arguments.num_machines in (None, 1) and arguments.main_process_port is None:
        arguments.main_process_port = get_free_port()
    logging.disable()  # the defaults of accelerate's own flags, and what torch tells of a failure
    status, told = 0, None
    try:
        launch_command(arguments)
    except subprocess.CalledProcessError as error:  # one process, which has told by itself
        status = error.returncode
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode
        message: Any = failure.message  # of a process that told nothing torch makes one up
        said = message["message"] if isinstance(message, dict) else None
        how = f"by signal {-status} ({failure.signal_name()})" if status < 0 else f"with status {status}"
        told = said or f"process {rank} ended {how}, and with it the others"
    except (KeyboardInterrupt, SignalException):
        status, told = INTERRUPTED_STATUS, INTERRUPTED
    if told is not None:
        print(f"error: {told}", file=sys.stderr)
    sys.exit(status if status >= 0 else 128 - status)  # as a shell tells of a signal


if __name__ == "__main__":
    main()
