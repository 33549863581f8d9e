"""A command whose options stand in groups in its help, and can also be set in the environment and in a TOML file."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
from click.core import ParameterSource

from advimg.errors import UsageError, unreadable
from advimg.settings import Group
from advimg.toml import parse_toml

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])
Decorator = Callable[[_Decorated], _Decorated]

_SOURCES = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP)
"""Where a value may come from, what counts most first."""
_CONFIG = "advimg.config"
"""The key of a context's ``meta`` under which the path of the TOML file is kept."""


class Option(click.Option):
    """An option that can also be set as ``ADVIMG_<OPTION>`` and in a TOML file.

    Attributes:
        group: its heading in ``--help``.
        key: its name in the file: ``step-size``.
    """

    def __init__(self, *arguments: Any, group: Group, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.group = group
        self.key = max(self.opts, key=len).removeprefix("--")
        self.envvar = f"ADVIMG_{self.key.replace('-', '_').upper()}"

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Name the option in an error as the person has written it."""
        source = ctx.get_parameter_source(self.name or "") if ctx else None
        if ctx and source is ParameterSource.ENVIRONMENT:
            return f"{self.envvar} in the environment"
        if ctx and source is ParameterSource.DEFAULT_MAP:
            return f"{self.key} in {ctx.meta[_CONFIG]}"
        return super().get_error_hint(ctx)


option = partial(click.option, cls=Option)
"""Add an option to a command; ``group`` is its heading in ``--help``."""


def options(*decorators: Decorator[Any]) -> Decorator[Any]:
    """Return a decorator that adds several options, in their order."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


class Command(click.Command):
    """A command whose help has its options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        last = get_args(Group)[-1]
        groups: dict[str, list[tuple[str, str]]] = {group: [] for group in get_args(Group)}
        for param in (param for param in self.get_params(ctx) if isinstance(param, click.Option)):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "group", last), []).append(record)
        for group, records in groups.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)


def keep_nearest(ctx: click.Context, given: dict[str, Any], *names: str) -> None:
    """Of options that exclude each other keep those set nearest: what is on the command line overrules all else."""
    sources = {name: ctx.get_parameter_source(name) for name in names}
    nearest = next((source for source in _SOURCES if source in sources.values()), None)
    for name, source in sources.items():
        if source in _SOURCES and source is not nearest:
            given[name] = {tuple: (), bool: False}.get(type(given[name]))


def use_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Take the defaults of a command's options from a TOML file; the callback of ``--config``.

    A key is an option's name, with - or _, and holds for every command with such an option; a table named after a
    command holds that command's own.

    Raises:
        UsageError: the file cannot be read, or has a key that no command knows, or a value of a wrong type.
    """
    group = ctx.find_root().command
    path = path or ctx.meta.get(_CONFIG)
    if path is None or ctx.resilient_parsing:
        return
    ctx.meta[_CONFIG] = path
    if ctx.command is group and isinstance(group, click.Group):
        return  # `advimg --config FILE attack`: the command will ask
    commands = {ctx.info_name or "": ctx.command}
    if isinstance(group, click.Group):
        commands = {name: command for name in group.list_commands(ctx) if (command := group.get_command(ctx, name))}
    known = {
        name: {each.key: each for each in command.params if isinstance(each, Option) and each.key != "config"}
        for name, command in commands.items()
    }
    of_any = {key: each for of_command in known.values() for key, each in of_command.items()}
    own = known[ctx.info_name or ""]
    general: dict[str, Any] = {}
    special: dict[str, Any] = {}
    for key, value in _read(path).items():
        if not isinstance(value, dict):
            general |= _defaults({key: value}, of_any, str(path))
        elif key in commands:
            table = _defaults(value, known[key], f"{path}, [{key}]")
            special |= table if key == ctx.info_name else {}
        else:
            raise UsageError(f"{path}: there is no command {key!r}; a table is one of {', '.join(commands)}")
    ctx.default_map = {str(own[key].name): value for key, value in (general | special).items() if key in own}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UsageError(unreadable(path, error)) from error
    return parse_toml(data, path)


def _defaults(values: Mapping[str, Any], known: Mapping[str, Option], where: str) -> dict[str, Any]:
    """Return values under the names of options, as they would be written on the command line."""
    defaults: dict[str, Any] = {}
    for written, value in values.items():
        key = written.replace("_", "-")
        if key not in known:
            from difflib import get_close_matches  # needed only on the way to an error

            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "keys are the names of options, such as eps"
            raise UsageError(f"{where}: unknown key {written!r}; {hint}")
        allowed: tuple[type, ...] = (bool,) if known[key].is_flag else (str, int, float)
        several = value if isinstance(value, list) and not known[key].is_flag else [value]
        if not all(type(each) in allowed for each in several):
            raise UsageError(f"{where}: {written} cannot be {value!r}{'; give true or false' * known[key].is_flag}")
        texts = [str(each) for each in several]
        defaults[key] = texts if known[key].multiple else ",".join(texts)
    return defaults
