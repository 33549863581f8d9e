"""What settings name: attacks, losses, transforms of pictures, target rules. A name is registered here, in one line.

Each entry is the module that holds the thing, which is imported when the thing is first asked for: the command line
lists the names without importing torch. A name may also be registered at run time, with :meth:`Registry.register`. One
that is neither is looked up among the entry points of other distributions.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from advimg import plugins
from advimg.errors import UsageError

_T = TypeVar("_T")


class Registry(Mapping[str, Any]):
    """Things of one kind by name, in the order of their registration; then plugins, by name.

    Args:
        kind: the word for one of them in messages.
        modules: the module that registers each name when it is imported.
        group: the plugins of this kind; None if there can be none.

    Attributes:
        built_in: the names that advimg itself has, which are listed without reading entry points.
    """

    def __init__(self, kind: str, modules: Mapping[str, str], group: plugins.Group | None = None) -> None:
        self._kind = kind
        self._modules = dict(modules)
        self._things: dict[str, Any] = {}
        self._group = group
        self.built_in = tuple(modules)

    def register(self, name: str) -> Callable[[_T], _T]:
        """Return a decorator that registers a class or function under a name."""

        def enter(thing: _T) -> _T:
            self._things[name] = thing
            self._modules.setdefault(name, getattr(thing, "__module__", ""))
            return thing

        return enter

    def check(self, name: str) -> None:
        """Load a plugin now, so that an error of it comes before any work. What is built in is not imported.

        Raises:
            UsageError: there is nothing of this name.
            PluginError: it cannot be used.
        """
        if name not in self._modules:
            self[name]

    def __getitem__(self, name: str) -> Any:
        if name not in self._things:
            if name in self._modules:
                importlib.import_module(self._modules[name])
            elif self._group is not None and name in self._group:
                self._things[name] = self._group.load(name)
            else:
                raise UsageError(f"unknown {self._kind} {name!r}: use {', '.join(self)}")
        return self._things[name]

    def __contains__(self, name: object) -> bool:
        # In this order: entry points are read from disk.
        return name in self._modules or name in self._things or (self._group is not None and name in self._group)

    def __iter__(self) -> Iterator[str]:
        yield from self._modules
        if self._group is not None:
            yield from (name for name in self._group.names() if name not in self._modules)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return bool(self._modules) or len(self) > 0


ATTACKS = Registry("attack", {"pgd": "advimg.attacks.pgd", "apgd": "advimg.attacks.apgd"}, plugins.ATTACKS)
LOSSES = Registry("loss", dict.fromkeys(("ce", "margin", "logit"), "advimg.attacks.losses"))
_CHANGES = "jpeg", "webp", "resize", "crop", "mirror", "brightness", "blur", "noise"
TRANSFORMS = Registry("change", {name: f"advimg.transforms.{name}" for name in _CHANGES}, plugins.CHANGES)
TARGET_RULES = Registry(
    "target rule", dict.fromkeys(("random", "least-likely", "runner-up"), "advimg.attacks.target_rules")
)
