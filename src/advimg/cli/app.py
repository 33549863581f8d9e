"""The command ``advimg``: a group that imports a command's file only when the command is asked for."""

import importlib

import click

from advimg import __version__
from advimg.cli.options import config_option

_COMMANDS = ("attack", "batch", "merge", "sweep", "report", "classify", "verify", "labels", "models", "plugins", "demo")


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"advimg.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
)
@config_option
@click.version_option(__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Turn a photo into an optical illusion for an image classifier.

    The result is a PNG that looks like the photo and is another class to the network. What counts is the file: it is
    reopened and judged by the classifier's official preprocessing before it is called a success.

    Every option can also be set as ADVIMG_<OPTION> (ADVIMG_EPS=4), or as a key of a TOML file given with --config.

    \b
    Try first:
      advimg demo
      advimg attack dog.jpg --target pelican
    """
