"""Decorators that add options to a command."""

from collections.abc import Callable
from typing import Any, TypeVar

_Command = TypeVar("_Command", bound=Callable[..., Any])
Decorator = Callable[[_Command], _Command]


def together(*decorators: Decorator[Any]) -> Decorator[Any]:
    """Return a decorator that adds what several add, in their order."""

    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate
