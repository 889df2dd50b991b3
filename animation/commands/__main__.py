"""All commands under one name, as `pip install .` installs them.

stableanimator animate --photo me.jpg --video dance.mp4 --output out
"""

import sys
from pathlib import Path

from animation import cli
from animation.errors import InputError

NAMES = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def dispatch() -> None:
    """Run the command that the first argument names on the others."""
    name = sys.argv[1] if len(sys.argv) > 1 else None
    if name in (None, "-h", "--help"):
        print(f"stableanimator COMMAND [flags]; COMMAND --help explains one. The commands: {', '.join(NAMES)}")
        return
    if name not in NAMES:
        raise InputError(f"{name}: no such command; give one of {', '.join(NAMES)}")
    sys.argv[:2] = [f"stableanimator {name}"]
    cli.run_command(name)


def main() -> None:
    """The entry point of the installed command."""
    cli.run(dispatch)


if __name__ == "__main__":
    main()
