"""``python -m tests.benchmarks NAME``: find the benchmark's file and run it."""

import importlib

import click

NAMES = (
    "startup",
    "strength",
    "stages",
    "least",
    "one_photo",
    "gradient",
    "folder",
    "endurance",
    "transfer",
    "visibility",
    "survival",
    "onnx",
    "resume",
    "driver",
    "ray",
)


class _Benchmarks(click.Group):
    """A group whose commands are files beside this one; each is imported only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in NAMES:
            return None
        command = importlib.import_module(f"tests.benchmarks.{cmd_name}").benchmark
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Benchmarks)
def main() -> None:
    """Measure advimg on this machine and print plain tables. Nothing is installed or downloaded.

    The machine should be idle otherwise: a network's threads wait for each other, and one more busy process can make
    them ten times as slow.
    """


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks")
