"""`accelerate launch` that ends as the script that it started: with status 2 for bad input, 130 for an interrupt.

    python -m animation.training.launch train.py --data_root_path animation_data --output_dir output/train

It takes the flags of `accelerate launch` before the script. accelerate itself ends with status 1 whatever happened.
"""

import logging
import subprocess
import sys


def main() -> None:
    """Start the processes, and end with the status of the first that failed."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("accelerate.commands.launch").setLevel(logging.ERROR)  # it lists the defaults of its own flags
    status = 0
    try:
        launch_command(launch_command_parser().parse_args())
    except subprocess.CalledProcessError as error:
        status = error.returncode
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        status = failure.exitcode
    except KeyboardInterrupt:
        status = 130
    sys.exit(status if status >= 0 else 128 - status)  # as a shell tells of a signal


if __name__ == "__main__":
    main()
