"""Attacks, model sources and changes of other distributions: found by their entry points, imported when named."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata, util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advimg.attacks.pgd import PGD
from advimg.changes import parse_changes
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.sources import base
from advimg.errors import PluginError, UsageError
from advimg.plugins import ATTACKS as ATTACK_GROUP
from advimg.registry import ATTACKS, TRANSFORMS
from advimg.settings import Settings
from tests import referee
from tests.batches import assert_one_line, records_of, save_photo, save_photos
from tests.conftest import Cli, sample

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"

Bring = Callable[..., Path]

CHANGE = """\
from dataclasses import dataclass
from advimg.changes import number
from advimg.transforms.base import Transform

@dataclass(frozen=True, slots=True)
class Darker(Transform):
    factor: float = number(0.75, above=0, at_most=1)
    floor: int = number(0, whole=True, at_least=0, at_most=9)

    def apply(self, picture):
        return picture.point(lambda level: int(level * self.factor) + self.floor)

    def pull_back(self, gradient, picture):
        return gradient * self.factor
"""
ATTACK = "from advimg.attacks.pgd import PGD\nclass Own(PGD):\n    pass\n"


@pytest.fixture
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bring]:
    """Install a distribution: its name, the source of its one module, and its entry points by group."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    for registry in (ATTACKS, TRANSFORMS):
        list(registry.values())  # what is built in stays
        monkeypatch.setattr(registry, "_things", dict(registry._things))

    def install(name: str, source: str, **groups: Mapping[str, str]) -> Path:
        info = site / f"{name}-1.5.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
        points = [
            f"[advimg.{group}]\n" + "".join(f"{key} = {name}:{value}\n" for key, value in entries.items())
            for group, entries in groups.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(points).replace(f"{name}:\n", f"{name}\n"))
        module = site / f"{name}.py"
        module.write_text(source)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return module

    yield install
    for path in site.glob("*.py"):
        sys.modules.pop(path.stem, None)


# Names.


def test_a_change_is_used_like_any_other(cli: Cli, bring: Bring, photo: Path, quick: Classifier) -> None:
    bring("dusk", CHANGE, transforms={"darker": "Darker"})
    small = save_photo(photo.with_name("small.png"))
    changes = "darker:0.5-0.75+jpeg:95,mirror+darker"
    ran = cli("attack", small, "-t", "3", "--survive", changes, "--eps", "12", "--json", "--no-figure")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["survive"] == "darker:0.5-0.75+jpeg:95,mirror+darker:0.75"
    cases = ["darker:0.5+jpeg:95", "darker:0.75+jpeg:95", "darker:0.625+jpeg:95", "mirror+darker:0.75"]
    assert [each["change"] for each in record["survives"]] == cases
    levels = np.asarray(Image.open(record["outputs"]["adversarial"]).convert("RGB"))
    seen = quick.judge(np.floor(levels[:, ::-1] * 0.75).astype(np.uint8))
    assert seen.top1 == 3
    (told,) = (each for each in record["survives"] if each["change"] == cases[-1])
    assert told["confidence"] == pytest.approx(seen.confidence(3), abs=1e-6)
    ran = cli("verify", record["outputs"]["adversarial"], "--original", small, "-m", "any", "--after", "darker:0.5:4")
    assert "after darker:0.5:4" in ran.err
    with pytest.raises(UsageError, match="the floor must be a whole number, at least 0 and at most 9"):
        parse_changes("darker:0.5:40")
    with pytest.raises(UsageError, match="write darker:FACTOR:FLOOR"):
        parse_changes("jpeg:75+darker:0.5:4:4")


def test_names_are_listed_and_nothing_is_imported(cli: Cli, bring: Bring) -> None:
    bring("mine", "raise RuntimeError", attacks={"own": "Own", "Odd!": "x"}, transforms={"darker": "x", "web": "x"})
    assert list(ATTACKS) == ["pgd", "apgd", "own"]
    assert len(ATTACKS) == 3
    assert "own" in ATTACKS
    assert "Odd!" not in ATTACKS
    with pytest.raises(UsageError, match=r"^unknown attack 'x': use pgd, apgd, own$"):
        ATTACKS["x"]
    with pytest.raises(UsageError, match=r"^attack 'x': give pgd, apgd, own$"):
        Settings(attack="x")
    with pytest.raises(UsageError, match=r"unknown change 'x': use jpeg, .*, noise, darker, web, or"):
        Settings(survive="x")
    assert_one_line(cli("attack", "a.png", "-t", "1", "--attack", "x"), 2, "'x' is not one of 'pgd', 'apgd', 'own'")
    for command in ("attack", "batch", "sweep"):
        assert "[pgd|apgd|own]" in cli(command, "--help").out
    Settings(attack="apgd", survive="web,jpeg:80").cases  # noqa: B018
    assert "mine" not in sys.modules


def test_entry_points_are_not_read_for_what_is_built_in(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: object) -> None:
        raise AssertionError("entry points were read")

    monkeypatch.setattr(metadata, "entry_points", refused)
    assert cli("--help").code == 0
    assert Settings(attack="apgd", survive="web").cases
    assert ATTACKS["pgd"] is PGD
    assert base.find("efficientnet_lite0").name == "efficientnet_lite0"
    with pytest.raises(AssertionError, match="entry points were read"):
        Settings(attack="own")


def test_help_does_not_import_what_reads_entry_points() -> None:
    code = (
        "import sys; before = set(sys.modules); from advimg.cli import run\n"
        "assert run(['--help']) == 0\n"
        "loaded = {'importlib.metadata', 'pkgutil', 'torch'} & (set(sys.modules) - before)\n"
        "assert not loaded, loaded"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()


# What is wrong with one.


@pytest.mark.parametrize(
    ("source", "value", "message"),
    [
        ("import not_there", "Own", "cannot be loaded: ModuleNotFoundError: No module named 'not_there'"),
        ("1 +", "Own", "cannot be loaded: SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "Own", "cannot be loaded: SystemExit: 0"),
        ("", "Own", "cannot be loaded: AttributeError: module 'mine' has no attribute 'Own'"),
        ("", "", "is of the type module; it has to be a subclass of advimg.{base}"),
        ("Own = 3", "Own", "is of the type int; it has to be a subclass of advimg.{base}"),
        ("class Own: pass", "Own", "is the class Own; it has to be a subclass of advimg.{base}"),
        ("from advimg.{module} import {name}\nclass Own({name}): pass", "Own", "has no {missing}"),
    ],
)
@pytest.mark.parametrize("kind", ["attack", "change"])
def test_a_broken_one_is_one_line_before_any_work(
    cli: Cli, bring: Bring, photo: Path, kind: str, source: str, value: str, message: str
) -> None:
    words = {
        "attack": {"module": "attacks.base", "name": "Attack", "missing": "propose, update"},
        "change": {"module": "transforms.base", "name": "Transform", "missing": "apply, pull_back"},
    }[kind]
    words["base"] = f"{words['module']}.{words['name']}"
    group = {"attack": "attacks", "change": "transforms"}[kind]
    bring("mine", source.format(**words), **{group: {"own": value}})
    named = f"the {kind} 'own', {f'mine:{value}'.rstrip(':')} of mine 1.5, {message.format(**words)}"
    option = {"attack": "--attack", "change": "--survive"}[kind]
    # There is no such model: the plugin is looked at first.
    assert_one_line(cli("attack", photo, "-t", "1", "-m", "no_model", option, "own"), 1, named)
    assert not list(photo.parent.glob("*adv*"))
    listed = cli("plugins", "--load")
    assert listed.code == 1
    assert named in listed.out


@pytest.mark.parametrize(
    "body",
    ["", "    factor: float = 0.5\n", "    factor: float = field(default=1, metadata={'parameter': {'x': 1}})\n"],
)
def test_a_change_has_to_declare_its_parameters(bring: Bring, body: str) -> None:
    decorator = "@dataclass(frozen=True)\n" if body else ""
    methods = "    def apply(self, picture): ...\n    def pull_back(self, gradient, picture): ...\n"
    head = "from dataclasses import dataclass, field\nfrom advimg.transforms.base import Transform\n"
    bring("mine", f"{head}{decorator}class Own(Transform):\n{body}{methods}", transforms={"own": "Own"})
    message = r"^the change 'own', <class 'mine.Own'>, is no dataclass whose fields are number\(\) or word\(\)$"
    with pytest.raises(PluginError, match=message):
        parse_changes("own")


def test_what_is_built_in_wins(cli: Cli, bring: Bring) -> None:
    bring(
        "mine",
        "raise RuntimeError",
        attacks={"pgd": "Own"},
        transforms={"jpeg": "Own", "web": "Own"},
        models={"timm": "OWN"},
    )
    assert ATTACKS["pgd"] is PGD
    assert list(ATTACKS) == ["pgd", "apgd"]
    assert [str(each) for each in parse_changes("jpeg")] == ["jpeg:75"]
    assert len(parse_changes("web")) == 6
    assert base.find("timm/resnet18").name.startswith("timm/resnet18")
    ran = cli("plugins", "--load")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        "name  kind          package   entry point",
        "pgd   attack        mine 1.5  mine:Own     advimg's own is used instead",
        "timm  model source  mine 1.5  mine:OWN     advimg's own is used instead",
        "jpeg  change        mine 1.5  mine:Own     advimg's own is used instead",
        "web   change        mine 1.5  mine:Own     advimg's own is used instead",
    ]
    assert "mine" not in sys.modules


def test_a_source_is_hidden_by_a_prefix_with_a_slash_only(bring: Bring) -> None:
    names = ["clip", "hf", "hf-hub", "open_clip", "timm"]
    bring("mine", "raise RuntimeError", models=dict.fromkeys(names, "OWN"))
    assert {each.name: each.shadowed for each in base.plugins()} == {
        "clip": False,
        "hf": False,
        "hf-hub": False,
        "open_clip": True,
        "timm": True,
    }
    with pytest.raises(PluginError, match=r"the model source 'hf', mine:OWN of mine 1\.5, cannot be loaded"):
        base.find("hf/x")


def test_two_distributions_of_one_name_are_both_named(cli: Cli, bring: Bring, photo: Path) -> None:
    for name in ("mine", "yours"):
        bring(name, ATTACK, attacks={"own": "Own"}, models={"zoo": "ZOO"})
    assert ATTACK_GROUP.names() == ("own",)
    ran = cli("attack", photo, "-t", "1", "--attack", "own")
    assert sorted(re.findall(r"(\w+):Own of \1 1\.5", ran.err)) == ["mine", "yours"]
    assert_one_line(ran, 1, "the attack 'own' is in several distributions: ", "; uninstall all but one")
    assert_one_line(cli("models", "zoo/"), 1, "the model source 'zoo' is in several distributions: ")
    ran = cli("plugins")
    assert ran.code == 0
    rows = ran.out.splitlines()
    assert rows[1].endswith("mine:Own     the same name as yours:Own of yours 1.5; uninstall all but one")
    assert rows[2].endswith("yours:Own    the same name as mine:Own of mine 1.5; uninstall all but one")
    assert cli("plugins", "--load").code == 1
    assert not {"mine", "yours"} & set(sys.modules)


# The list.


def test_plugins_are_listed(cli: Cli, bring: Bring) -> None:
    ran = cli("plugins")
    assert (ran.code, ran.out.count("\n")) == (0, 1)
    assert "no plugins are installed" in ran.out
    assert "CONTRIBUTING.md" in ran.out
    assert cli("plugins", "--json").out == "[]\n"
    bring("mine", ATTACK + CHANGE, attacks={"own": "Own", "Odd": "Own"}, transforms={"darker": "Darker"})
    plain = cli("plugins")
    assert plain.code == 0
    assert plain.out.splitlines() == [
        "name    kind    package   entry point",
        "Odd     attack  mine 1.5  mine:Own     its name has to be of lower-case letters, digits, - and _",
        "own     attack  mine 1.5  mine:Own",
        "darker  change  mine 1.5  mine:Darker",
    ]
    assert "mine" not in sys.modules
    ran = cli("plugins", "--load")
    assert ran.code == 1  # one is misnamed
    assert [row.endswith("can be used") for row in ran.out.splitlines()] == [False, False, True, True]
    listed = json.loads(cli("plugins", "--json").out)
    common = {"distribution": "mine", "version": "1.5", "shadowed": False}
    assert listed[1:] == [
        {"name": "own", "kind": "attack", "value": "mine:Own", "problem": None} | common,
        {"name": "darker", "kind": "change", "value": "mine:Darker", "problem": None} | common,
    ]


# The example.


def test_the_example_is_short() -> None:
    lines = [line for path in EXAMPLE.iterdir() for line in path.read_text("utf-8").splitlines() if line]
    assert len(lines) <= 40


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example with pip, as far as that needs no network; return the folder."""
    if util.find_spec("pip") is None or util.find_spec("setuptools") is None:
        pytest.skip("needs pip and setuptools in this environment")
    if tuple(map(int, metadata.version("setuptools").split(".")[:2])) < (70, 1) and util.find_spec("wheel") is None:
        pytest.skip("this setuptools makes no wheel without the package wheel")
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")  # setuptools builds in the source
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, str(folder / "site"), str(folder / "source")]
    subprocess.run(command, check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def advimg(example: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs advimg in a process of its own, with the example installed."""
    paths = [str(example), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "advimg", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


def edges_across(path: Path) -> float:
    """Return how sure the example network is that a picture has edges across, by PIL and numpy."""
    with Image.open(path) as picture:
        width, height = picture.size
        size = (64, int(64 * width / height)) if width < height else (int(64 * width / height), 64)
        small = picture.convert("RGB").resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - 64) / 2), round((size[1] - 64) / 2)
    values = np.asarray(small.crop((left, top, left + 64, top + 64)), np.float64) / 127.5 - 1
    logits = [50 * np.abs(np.diff(values, axis=axis)).mean() for axis in (0, 1)]
    return float(1 / (1 + np.exp(logits[1] - logits[0])))


def test_the_example_fools_its_own_network(
    advimg: Callable[..., subprocess.CompletedProcess[str]],
    cli: Cli,
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copy(sample("chelsea.png"), tmp_path / "cat.png")
    assert edges_across(tmp_path / "cat.png") < 0.5
    ran = advimg(
        "attack", "cat.png", "-t", "across", "-m", "edges/direction", "--attack", "cosine", "--json", "--no-figure"
    )
    assert ran.returncode == 0, ran.stderr
    record = json.loads(ran.stdout)
    assert (record["attack"], record["model"]) == ("cosine", "edges/direction")
    path = tmp_path / record["outputs"]["adversarial"]
    assert edges_across(path) >= 0.9
    assert edges_across(path) == pytest.approx(record["confidence"], abs=1e-3)
    assert referee.linf(path, tmp_path / "cat.png") <= 10
    # The record names the model.
    monkeypatch.syspath_prepend(example)
    assert cli("verify", path, "--original", "cat.png").code == 0


def test_the_example_is_found_in_every_process_of_a_batch(
    advimg: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    photos = save_photos(tmp_path / "photos", 4)
    command = ("batch", "photos", "-t", "across", "-m", "edges/direction", "--attack", "cosine", "-O", "out")
    ran = advimg(*command, "--device", "cpu,cpu", "--steps", "20", "--no-figure")
    assert ran.returncode == 0, ran.stderr
    records = records_of(tmp_path / "out")
    assert sorted(record["source"] for record in records) == sorted(map(str, photos))
    for record in records:
        across = edges_across(Path(record["outputs"]["adversarial"]))
        assert across > 0.5
        assert across == pytest.approx(record["confidence"], abs=1e-3)
