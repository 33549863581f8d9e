"""How the package is built: which module may import which, what the top command may load, and who may print."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import advimg

_ROOT = Path(advimg.__file__).parent

# From the ground up: a room imports rooms below it only. Those of one line do not know each other.
_FLOORS = (
    ("errors",),
    ("plugins", "formatting", "toml"),
    ("registry", "storage"),
    ("changes",),
    ("settings", "labels"),
    ("record", "target_names"),
    ("record_schema", "images", "attacks"),
    ("transforms",),
    ("classifiers", "outputs"),
    ("engine", "models", "report"),
    ("outcome", "tracing", "verification", "recorded_models"),
    ("writing",),
    ("batches",),
    ("api",),
    ("cli",),
    ("__main__",),
)
_FLOOR = {room: number for number, rooms in enumerate(_FLOORS) for room in rooms}


def _module(path: Path) -> str:
    parts = path.relative_to(_ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {_module(path): path for path in _ROOT.rglob("*.py")}


def _imported(path: Path) -> Iterator[str]:
    """Yield the full name of every module that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in _MODULES else node.module


_IMPORTS: Mapping[str, set[str]] = {name: set(_imported(path)) for name, path in _MODULES.items()}


def _room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_has_its_floor() -> None:
    assert {_room(name) for name in _MODULES if name != "advimg"} == set(_FLOOR)


@pytest.mark.parametrize("name", sorted(set(_MODULES) - {"advimg"}))
def test_imports_go_down_only(name: str) -> None:
    for other in _IMPORTS[name] & set(_MODULES) - {"advimg"}:
        if _room(other) != _room(name):
            assert _FLOOR[_room(other)] < _FLOOR[_room(name)], f"{name} imports {other}"


def test_no_import_leads_back() -> None:
    graph = {name: _IMPORTS[name] & set(_MODULES) - {name, "advimg"} for name in _MODULES if name != "advimg"}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("library", "rooms"),
    [
        ("click", {"cli"}),
        ("ray", {"batches"}),
        ("fsspec", {"storage"}),
        ("rich", {"cli"}),
        ("matplotlib", {"report"}),
        ("torchvision", {"classifiers"}),
        ("timm", {"classifiers"}),
        ("onnx", {"classifiers"}),
        ("onnx2torch", {"classifiers"}),
        ("onnxruntime", {"classifiers"}),
    ],
)
def test_a_library_is_known_in_its_rooms_only(library: str, rooms: set[str]) -> None:
    users = {
        _room(name) for name, imports in _IMPORTS.items() if any(other.split(".")[0] == library for other in imports)
    }
    assert users == rooms


@pytest.mark.parametrize(
    "room",
    [
        "errors",
        "plugins",
        "formatting",
        "storage",
        "changes",
        "settings",
        "labels",
        "record",
        "record_schema",
        "target_names",
        "outputs",
        "images",
        "report",
    ],
)
def test_what_needs_no_network_imports_no_torch(room: str) -> None:
    for name, imports in _IMPORTS.items():
        if name != "advimg" and _room(name) == room:
            assert not any(other.split(".")[0] == "torch" for other in imports), name
