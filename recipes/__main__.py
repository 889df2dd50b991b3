"""Train every small network from nothing, in their order, one after the other.

    python -m recipes

Each recipe goes on from what it has kept, so that an interrupt loses nothing.
"""

import argparse
import sys

from recipes.loop import run_command

RECIPES = (  # what is frozen in a later one comes before it
    "detectors person --steps 1500",
    "pose_estimator --steps 3000",
    "detectors face --steps 1500",
    "recogniser --steps 3600",
    "vae --steps 3600 --batch_size 16",
    "vae --finetune --steps 6000 --batch_size 6 --learning_rate 1.5e-3",
    "image_encoder --steps 1500",
    "animation",
)


def commands(*flags: str) -> list[list[str]]:
    """The command line of each recipe, with flags that all understand."""
    return [[sys.executable, "-m", f"recipes.{name}", *rest, *flags] for name, *rest in map(str.split, RECIPES)]


def main() -> None:
    """Run one after the other; the first that fails ends all with its status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=".", help="the folder of checkpoints/ and models/")
    parser.add_argument("--state", default="recipes/state", help="where training is kept, to go on")
    args = parser.parse_args()
    for command in commands("--output", args.output, "--state", args.state):
        print(" ".join(command[1:]), flush=True)
        run_command(command)


if __name__ == "__main__":
    main()
