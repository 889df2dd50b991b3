"""Make clips of puppets: characters and motions from seeds, with skeletons, face masks and all key points."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("make_puppets")
