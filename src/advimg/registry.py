"""What settings name: attacks, losses, transforms of pictures, target rules. A name is registered here, in one line.

Each entry is the module that holds the thing, which is imported when the thing is first asked for: the command line
lists the names without importing torch. A name may also be registered at run time, with :meth:`Registry.register`.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from advimg.errors import UsageError

_T = TypeVar("_T")


class Registry(Mapping[str, Any]):
    """Things of one kind by name, in the order of their registration.

    Args:
        kind: the word for one of them in messages.
        modules: the module that registers each name when it is imported.
    """

    def __init__(self, kind: str, modules: Mapping[str, str]) -> None:
        self._kind = kind
        self._modules = dict(modules)
        self._things: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[_T], _T]:
        """Return a decorator that registers a class or function under a name."""

        def enter(thing: _T) -> _T:
            self._things[name] = thing
            self._modules.setdefault(name, getattr(thing, "__module__", ""))
            return thing

        return enter

    def __getitem__(self, name: str) -> Any:
        if name not in self._modules:
            raise UsageError(f"unknown {self._kind} {name!r}: use {', '.join(self)}")
        if name not in self._things:
            importlib.import_module(self._modules[name])
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        return name in self._modules

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


ATTACKS = Registry("attack", {"pgd": "advimg.attacks.pgd", "apgd": "advimg.attacks.apgd"})
LOSSES = Registry("loss", dict.fromkeys(("ce", "margin", "logit"), "advimg.attacks.losses"))
_CHANGES = "jpeg", "webp", "resize", "crop", "mirror", "brightness", "blur", "noise"
TRANSFORMS = Registry("change", {name: f"advimg.transforms.{name}" for name in _CHANGES})
TARGET_RULES = Registry(
    "target rule", dict.fromkeys(("random", "least-likely", "runner-up"), "advimg.attacks.target_rules")
)
