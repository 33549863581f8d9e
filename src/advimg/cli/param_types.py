"""The values of options: channels, sizes, devices."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from advimg.errors import UsageError
from advimg.storage.url import is_url, path_or_url

if TYPE_CHECKING:
    _Amplify = click.ParamType[float | Literal["auto"]]
    _Size = click.ParamType[int | Literal["auto"]]
    _Channels = click.ParamType[tuple[float, float, float]]
    _Choice = click.ParamType[str]
    _Device = click.ParamType[str]
    _Devices = click.ParamType[tuple[str, ...]]
    _Labels = click.ParamType[Path | tuple[str, ...]]
else:
    # It cannot be subscripted before click 8.4.
    _Amplify = _Size = _Channels = _Choice = _Device = _Devices = _Labels = click.ParamType


class PlaceType(click.Path):
    """A path of this machine, or a URL of an object store."""

    name = "path"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path as it was written, or the URL."""
        return path_or_url(value) if is_url(value) else super().convert(value, param, ctx)


class AmplifyType(_Amplify):
    """By how much a perturbation is shown: ``auto``, or a factor."""

    name = "factor"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | Literal["auto"]:
        """Return ``auto`` or the factor."""
        if value == "auto":
            return "auto"
        from advimg.images.perturbation import check_amplify  # which takes as long as all else that completion needs

        return check_amplify(click.FLOAT.convert(value, param, ctx))


class BatchSizeType(_Size):
    """How many pictures share a pass: ``auto``, or a number from 1."""

    name = "photos"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["auto"]:
        """Return ``auto`` or the number."""
        if value == "auto":
            return "auto"
        size: int = click.IntRange(min=1).convert(value, param, ctx)
        return size


class ChoiceType(_Choice):
    """One of some names, which are asked for where they are shown: those of plugins are read from disk."""

    name = "choice"

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, if it is one of them."""
        return str(value) if value in self._names else str(self._choice.convert(value, param, ctx))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """Return all names, for ``--help``."""
        return self._choice.get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that begin so."""
        return self._choice.shell_complete(ctx, param, incomplete)

    @property
    def _choice(self) -> click.Choice[str]:
        return click.Choice(tuple(self._names))


class ChannelsType(_Channels):
    """A value for each channel: ``0.485,0.456,0.406``, or one for all."""

    name = "r,g,b"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float]:
        """Return three values."""
        if isinstance(value, tuple):
            return value
        try:
            values = tuple(map(float, value.split(",")))
        except ValueError:
            values = ()
        if len(values) == 1:
            values *= 3
        if len(values) != 3:
            self.fail(f"{value!r}: give three values, like 0.485,0.456,0.406", param, ctx)
        red, green, blue = values
        return red, green, blue


class LabelsType(_Labels):
    """Names of classes with commas between them: ``a dog,a pelican``; or the path of a file, one a line."""

    name = "name,name,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Path | tuple[str, ...]":
        """Return the names, or the path; a file that is there is meant, whatever its name."""
        if isinstance(value, tuple):
            return value
        if "," not in value or os.path.lexists(value):
            return Path(value)
        return tuple(name.strip() for name in value.split(","))


class WholeTextType(click.types.StringParamType):
    """Text that is one value in the environment, spaces and all, where the option may be given several times."""

    def split_envvar_value(self, rv: str) -> list[str]:
        """Return the one value."""
        return [rv]


class DeviceType(_Device):
    """One device: ``cuda:0``."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return its name; whether there is such a device is for torch to say."""
        if "," in value:
            command = ctx.info_name if ctx else "this"
            raise UsageError(f"--device {value}: {command} uses one device; `advimg batch` and `sweep` use several")
        return str(value)


class DevicesType(_Devices):
    """One device, or several: ``cuda:0,cuda:1``."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Return their names."""
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(","))
        if not all(names):
            raise UsageError(f"--device {value!r} has an empty place; write several like cuda:0,cuda:1")
        if len(names) > 1 and "auto" in names:
            raise UsageError(f"--device {value!r}: auto is one device; name each of several, like cuda:0,cuda:1")
        return names
