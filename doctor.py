"""Say what this machine and these folders can do, one line a finding."""

from animation import cli

if __name__ == "__main__":
    cli.run_command("doctor")
