"""Make clips of puppets: characters and motions from seeds, with skeletons, face masks and all key points."""

from animation import cli
from animation.commands.make_puppets import main

if __name__ == "__main__":
    cli.run(main)
