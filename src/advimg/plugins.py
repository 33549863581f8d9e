"""What other distributions bring through entry points: attacks, model sources, changes.

An entry point is imported when its name is first asked for, never to list it. Each process looks names up for itself,
so that those of a batch over several devices find them, too.
"""

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from advimg.errors import PluginError, first_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

# Names stand in changes and in the names of models, without quotes; changes are read in lower case.
_NAME = r"[a-z0-9][a-z0-9_-]*"


class Plugin(NamedTuple):
    """A plugin, as ``advimg plugins`` lists it. The field names are keys of its JSON.

    Attributes:
        name: of the entry point.
        kind: what it brings: "attack", "change" or "model source".
        distribution: that brings it.
        version: of the distribution.
        value: what the entry point refers to, ``module:object``.
        shadowed: whether advimg itself has something of this name, which is used instead.
        problem: why it cannot be used, as far as that shows without importing it.
    """

    name: str
    kind: str
    distribution: str
    version: str
    value: str
    shadowed: bool
    problem: str | None


class Group:
    """The plugins of one kind.

    Args:
        kind: the word for one of them in messages.
        name: of the group of entry points.
        base: ``module:class``, to which entry points refer.
        form: whether to a subclass of it or to an instance.
    """

    def __init__(self, kind: str, name: str, base: str, form: Literal["subclass", "instance"] = "subclass") -> None:
        self._kind = kind
        self._name = name
        self._base = base
        self._form = form

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and re.fullmatch(_NAME, name) is not None and bool(self._points(name))

    def names(self) -> tuple[str, ...]:
        """Return the names that can be asked for, in alphabetical order."""
        return tuple(sorted({point.name for point in self._points() if re.fullmatch(_NAME, point.name)}))

    def plugins(self, built_in: Collection[str]) -> list[Plugin]:
        """Return what is installed, by name, without importing it.

        Args:
            built_in: the names that advimg itself has.
        """
        points = self._points()
        found = []
        for point in sorted(points, key=lambda point: (point.name, *_distribution(point))):
            others = [_described(other) for other in points if other.name == point.name and other is not point]
            problem = None
            if not re.fullmatch(_NAME, point.name):
                problem = "its name has to be of lower-case letters, digits, - and _"
            elif point.name in built_in:
                problem = "advimg's own is used instead"
            elif others:
                problem = f"the same name as {' and '.join(others)}; uninstall all but one"
            found.append(
                Plugin(point.name, self._kind, *_distribution(point), point.value, point.name in built_in, problem)
            )
        return found

    def load(self, name: str) -> Any:
        """Import the plugin of a name that is in the group.

        Raises:
            PluginError: several distributions bring it, it cannot be imported, or it is something else.
        """
        from pkgutil import resolve_name

        points = self._points(name)
        if len(points) > 1:
            raise PluginError(
                f"the {self._kind} {name!r} is in several distributions: {' and '.join(map(_described, points))}; "
                "uninstall all but one"
            )
        (point,) = points
        try:
            thing = point.load()
        except (Exception, SystemExit) as error:  # the code of other people
            raise self.error(name, f"cannot be loaded: {first_line(error)}") from error
        base: type = resolve_name(self._base)
        is_class = isinstance(thing, type)
        if not (is_class and issubclass(thing, base) if self._form == "subclass" else isinstance(thing, base)):
            what = f"the class {thing.__name__}" if is_class else f"of the type {type(thing).__name__}"
            raise self.error(name, f"is {what}; it has to be {self._wanted}")
        if missing := ", ".join(sorted(getattr(thing, "__abstractmethods__", ()))):
            raise self.error(name, f"has no {missing}")
        return thing

    def error(self, name: str, what: str) -> PluginError:
        """Return an error that names a plugin."""
        return PluginError(f"the {self._kind} {name!r}, {_described(self._points(name)[0])}, {what}")

    @property
    def _wanted(self) -> str:
        return f"{'a subclass' if self._form == 'subclass' else 'an instance'} of {self._base.replace(':', '.')}"

    def _points(self, name: str | None = None) -> "Sequence[EntryPoint]":
        # Takes as long to import as click, and is not needed for what is built in.
        from importlib.metadata import entry_points

        found = entry_points(group=self._name)
        return tuple(found if name is None else found.select(name=name))


def _distribution(point: "EntryPoint") -> tuple[str, str]:
    """Return the name and version of an entry point's distribution."""
    return (point.dist.name, point.dist.version) if point.dist else ("?", "?")


def _described(point: "EntryPoint") -> str:
    return f"{point.value} of {' '.join(_distribution(point))}"


ATTACKS = Group("attack", "advimg.attacks", "advimg.attacks.base:Attack")
CHANGES = Group("change", "advimg.transforms", "advimg.transforms.base:Transform")
MODELS = Group("model source", "advimg.models", "advimg.classifiers.sources.base:Source", form="instance")
