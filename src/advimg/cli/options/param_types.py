"""What the values of options are: ε, several of them, channels, sizes."""

from typing import TYPE_CHECKING, Any, Literal

import click

from advimg.settings import Eps, Norm, parse_eps, parse_eps_or_auto

if TYPE_CHECKING:
    _Eps = click.ParamType[Eps]
    _Budgets = click.ParamType[tuple[float, ...]]
    _Size = click.ParamType[int | Literal["auto"]]
    _Channels = click.ParamType[tuple[float, float, float]]
else:
    _Eps = _Budgets = _Size = _Channels = click.ParamType  # cannot be subscripted before click 8.4


class EpsType(_Eps):
    """ε in levels of 255: ``10`` or ``10/255``; where it can be looked for, ``auto``."""

    name = "levels"

    def __init__(self, *, auto: bool) -> None:
        self._auto = auto

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Eps:
        """Return whole levels, 1..255, or ``auto``; for L2 a number above 0."""
        if isinstance(value, int | float):
            return value
        return parse_eps_or_auto(value, _norm(ctx)) if self._auto else parse_eps(value, _norm(ctx))


class BudgetsType(_Budgets):
    """Several ε: ``1,2,4,8``."""

    name = "levels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Return them rising, each once."""
        if isinstance(value, tuple):
            return value
        return tuple(sorted({parse_eps(text, _norm(ctx)) for text in value.split(",")}))


class BatchSizeType(_Size):
    """How many photos share a pass: ``auto``, or a number from 1."""

    name = "photos"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["auto"]:
        """Return ``auto`` or the number."""
        if value == "auto":
            return "auto"
        size: int = click.IntRange(min=1).convert(value, param, ctx)
        return size


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


def _norm(ctx: click.Context | None) -> Norm:
    """Return the norm that was given; ``--norm`` is read before all others."""
    return (ctx.params.get("norm") if ctx else None) or "linf"
