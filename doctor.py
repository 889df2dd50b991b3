"""Say what this machine and these folders can do, one line a finding."""

from animation import cli
from animation.commands.doctor import main

if __name__ == "__main__":
    cli.run(main)
