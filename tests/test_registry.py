"""How a model source registers, in this project and from outside of it."""

import json
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import torch
from torch import nn

from advimg.classifiers.load import labels_of, load_classifier
from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources import base
from advimg.classifiers.sources.base import Listed, Published, Source, register
from advimg.classifiers.spec import ModelSpec
from advimg.errors import PluginError, UsageError
from advimg.labels import Labels
from tests.conftest import Cli, random_photo

_PLUGIN = """\
from tests.test_registry import made_up
source = made_up("hub/", {folder!r})
unprefixed = made_up("", {folder!r})
"""


def _network(classes: int, size: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, classes))


def made_up(prefix: str, folder: str) -> Source:
    """Return a source of one linear network of two classes, ``made_up``."""
    name, path = f"{prefix}made_up", Path(folder) / "made_up.pt"
    torch.save(_network(2, 8).state_dict(), path)

    def find(asked: str) -> Published | None:
        if asked != name:
            return None
        return Published(
            name=name,
            build=_network,
            preprocessing=Preprocessing(resize=8, crop=8, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3),
            labels=Labels(["cat", "dog"]),
            fetch=lambda _: path,
        )

    def listed() -> Iterator[Listed]:
        yield Listed(name=name, input_size=8, parameters=386, top1=None, on_disk=True)

    return Source(prefix=prefix, names=lambda: [name], find=find, listed=listed)


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a distribution of three sources, of which the first is in order; return its module."""
    info = tmp_path / "site" / "made_up-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
    entries = "hub = made_up_plugin:source\nbroken = made_up_plugin:nothing\nother = made_up_plugin:unprefixed\n"
    (info / "entry_points.txt").write_text(f"[advimg.models]\n{entries}")
    module = info.with_name("made_up_plugin.py")
    module.write_text(_PLUGIN.format(folder=str(tmp_path)))
    monkeypatch.syspath_prepend(info.parent)
    monkeypatch.delitem(sys.modules, "made_up_plugin", raising=False)
    assert len(metadata.entry_points(group="advimg.models")) == 3
    return module


def test_a_source_that_registers_is_found_and_listed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_SOURCES", base._SOURCES.copy())
    register(made_up("", str(tmp_path)))
    classifier = load_classifier("made_up", device="cpu")
    assert (classifier.name, classifier.labels.names) == ("made_up", ("cat", "dog"))
    assert len(classifier.judge(random_photo(9, 9).levels).top()) == 2
    assert [each["name"] for each in json.loads(cli("models", "made", "--json").out)] == ["made_up"]
    with pytest.raises(UsageError, match=r"unknown model 'made_upp'; did you mean made_up\?"):
        load_classifier("made_upp")
    assert load_classifier("efficientnet_lite0", device="cpu").name == "efficientnet_lite0"


def test_a_source_from_outside_is_found_by_its_prefix(cli: Cli, plugin: Path) -> None:
    assert labels_of(ModelSpec(model="hub/made_up")).names == ("cat", "dog")
    classifier = load_classifier("hub/made_up", device="cpu")
    assert len(classifier.judge(random_photo(9, 9).levels).top()) == 2
    ran = cli("models", "hub/")
    assert [row.split()[0] for row in ran.out.splitlines()] == ["name", "hub/made_up"]
    with pytest.raises(UsageError, match=r"unknown model 'hub/made_upp'; did you mean hub/made_up\?"):
        load_classifier("hub/made_upp")


def test_a_source_from_outside_is_not_imported_for_other_names(cli: Cli, plugin: Path) -> None:
    for name in ("resnet51", "efficientnet_lite9", "unheard/of"):
        with pytest.raises(UsageError, match="unknown model"):
            load_classifier(name)
    assert cli("models", "resnet18").code == 0
    assert "made_up_plugin" not in sys.modules


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "hub/x",
            "import not_there",
            r"the model source 'hub', made_up_plugin:source of made-up 1\.0, cannot be loaded: ModuleNotFoundError: No",
        ),
        ("hub/x", "1 +", "cannot be loaded: SyntaxError"),
        ("broken/x", None, "source 'broken', .* cannot be loaded: AttributeError"),
        ("hub/x", "source = 3", "made_up_plugin:source of .* is of the type int; it has to be an instance of .*Source"),
        ("other/x", None, "has the prefix '', not 'other/'"),
    ],
)
def test_a_broken_source_from_outside_is_one_line(
    cli: Cli, plugin: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        plugin.write_text(content)
    with pytest.raises(PluginError, match=message) as caught:
        load_classifier(name)
    assert "\n" not in str(caught.value)
    ran = cli("models", name)
    assert ran.code == 1
    assert re.search(message, ran.err.replace("\n", ""))
