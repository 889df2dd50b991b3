"""Training at one size, which train.py does too: says with which flags."""

from animation import cli
from animation.errors import InputError


def main() -> None:
    """Raise InputError."""
    raise InputError("train.py trains at one size too: train.py --data_path LIST --dataset_width W --dataset_height H")


if __name__ == "__main__":
    cli.run(main)
