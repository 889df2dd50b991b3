"""A page in the browser on which to animate photos."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("app")
