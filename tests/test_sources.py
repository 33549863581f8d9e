"""Where classifiers come from: checkpoints of one's own, TOML files and torchvision's networks."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.load import load_classifier
from advimg.classifiers.preprocessing import Preprocessing
from advimg.classifiers.sources.base import Published, find
from advimg.classifiers.sources.state_dict import fill
from advimg.classifiers.spec import ModelSpec
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels
from tests.conftest import Cli, random_photo

FLOWERS = ("daisy", "dandelion", "rose", "sunflower", "tulip")

State = Mapping[str, torch.Tensor]


@pytest.fixture(scope="module")
def five() -> nn.Module:
    """Return a ResNet-18 that tells five classes apart."""
    torch.manual_seed(0)
    network: nn.Module = models.resnet18(weights=None, num_classes=5).eval()
    return network


@pytest.fixture(scope="module")
def checkpoint(five: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "five.pt"
    torch.save(five.state_dict(), path)
    return path


def load(path: Path | None, name: str = "resnet18", **options: Any) -> Classifier:
    return load_classifier(name, weights=path, device="cpu", **options)


def assert_same_logits(classifier: Classifier, reference: nn.Module, size: int = 64) -> None:
    picture = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    # Small networks are laid out otherwise in memory, and sums are taken in another order.
    layouts = (torch.contiguous_format, torch.channels_last)
    same = [copy.deepcopy(reference).to(memory_format=layout) for layout in layouts]
    with torch.inference_mode():
        logits = classifier.network(picture)
        assert any(torch.equal(logits, network(picture)) for network in same)


# Checkpoints.


def prefixed(prefix: str, state: State) -> dict[str, torch.Tensor]:
    """Return a state dict as wrappers save it."""
    return {f"{prefix}{key}": value for key, value in state.items()}


_WAYS: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "best": 0.91},
    "model": lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "module.": lambda state: prefixed("module.", state),
    "_orig_mod.": lambda state: prefixed("_orig_mod.", state),
    "all of it": lambda state: {"state_dict": {"model": prefixed("module._orig_mod.", state)}},
}


@pytest.mark.parametrize("way", _WAYS)
def test_a_checkpoint_is_read_however_it_was_saved(tmp_path: Path, five: nn.Module, way: str) -> None:
    path = tmp_path / "mine.pth"
    torch.save(_WAYS[way](five.state_dict()), path)
    classifier = load(path)
    assert classifier.labels.names == ("class 0", "class 1", "class 2", "class 3", "class 4")
    assert_same_logits(classifier, five)


def test_a_checkpoint_as_safetensors(tmp_path: Path, five: nn.Module) -> None:
    save_file(prefixed("module.", five.state_dict()), tmp_path / "mine.safetensors")
    classifier = load(tmp_path / "mine.safetensors")
    assert len(classifier.labels) == 5
    assert classifier.weights == "mine.safetensors"
    assert_same_logits(classifier, five)


def test_labels_come_from_a_list_or_a_file(tmp_path: Path, checkpoint: Path) -> None:
    assert load(checkpoint, labels=list(FLOWERS)).labels.names == FLOWERS
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(FLOWERS).encode() + b"\r\n\r\n")
    for form in (tmp_path / "names.txt", str(tmp_path / "names.txt")):
        assert load(checkpoint, labels=form).labels.names == FLOWERS


def test_a_head_of_a_thousand_keeps_the_published_names(tmp_path: Path) -> None:
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "mine.pt")
    assert load(tmp_path / "mine.pt", "squeezenet1_1").labels[144] == "pelican"


def test_labels_of_another_number_name_both(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ClassifierError, match="there are 4 labels, but the network has 5 outputs"):
        load(checkpoint, labels=FLOWERS[:4])
    with pytest.raises(ClassifierError, match=r"the labels .*no\.txt cannot be read"):
        load(checkpoint, labels=tmp_path / "no.txt")


def test_a_checkpoint_of_another_architecture_names_three_keys(checkpoint: Path) -> None:
    for name in ("mobilenet_v3_small", "squeezenet1_1"):
        with pytest.raises(
            ClassifierError, match=r"do not fit the network: (\S+ is missing; ){2}\S+ is missing and \d+"
        ):
            load(checkpoint, name)


class _Marks(nn.Module):
    """Leaves a file where it is run."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        torch.save(picture, "ran.pt")
        return picture


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused_and_its_code_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), "program.pt")  # type: ignore[no-untyped-call]

    def run(*arguments: object, **options: object) -> None:
        raise AssertionError("the program was loaded")

    monkeypatch.setattr(torch.jit, "load", run)
    with pytest.raises(ClassifierError, match=r"is a TorchScript program, which is never run; save its state dict"):
        load(Path("program.pt"))


def test_a_pickled_network_is_refused_and_not_run(tmp_path: Path, five: nn.Module) -> None:
    evil = _Evil(tmp_path / "ran")
    for saved in (_Marks(), {"model": _Marks()}, {"fc.weight": evil}, {"state_dict": five.state_dict(), "code": evil}):
        torch.save(saved, tmp_path / "mine.pt")
        with pytest.raises(ClassifierError, match="holds code, which is never run"):
            load(tmp_path / "mine.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.pt"]


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_options_change_the_preprocessing(checkpoint: Path) -> None:
    published = load(checkpoint).preprocessing
    assert published == Preprocessing(
        resize=256, crop=224, interpolation="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    changed = load(
        checkpoint, input_size=64, resize=70, interpolation="bicubic", mean=[0.5, 0.4, 0.3], std=(0.1, 0.2, 0.3)
    ).preprocessing
    assert changed == Preprocessing(
        resize=70, crop=64, interpolation="bicubic", mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3)
    )
    assert load(checkpoint, resize=300).preprocessing.resize == 300
    assert load(checkpoint, resize=300).preprocessing.crop == 224


@pytest.mark.parametrize(("size", "resize"), [(112, 128), (448, 512), (96, 110), (1, 1)])
def test_only_an_input_size_keeps_the_crop_s_share(checkpoint: Path, size: int, resize: int) -> None:
    preprocessing = load(checkpoint, input_size=size).preprocessing
    assert (preprocessing.crop, preprocessing.resize) == (size, resize)


@pytest.mark.parametrize(
    "changes",
    [{"resize": 200}, {"input_size": 0}, {"interpolation": "sinc"}, {"std": (0, 1, 1)}, {"mean": (0.5,)}],
    ids=str,
)
def test_values_out_of_range_are_refused(checkpoint: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ClassifierError):
        load(checkpoint, **changes)


def test_a_vit_of_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = models.VisionTransformer(
        image_size=64, patch_size=32, num_layers=12, num_heads=12, hidden_dim=768, mlp_dim=3072, num_classes=5
    ).eval()
    nn.init.normal_(small.heads.head.weight)
    torch.save(small.state_dict(), tmp_path / "vit.pt")
    classifier = load(tmp_path / "vit.pt", "vit_b_32", input_size=64)
    assert (classifier.preprocessing.crop, len(classifier.labels)) == (64, 5)
    assert_same_logits(classifier, small)
    with pytest.raises(ClassifierError, match=r"pos_embedding is \[1, 5, 768\], not \[1, 50, 768\]"):
        load(tmp_path / "vit.pt", "vit_b_32")


def test_an_input_size_that_an_architecture_does_not_take_is_one_line(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "any.pt")
    with pytest.raises(ClassifierError) as caught:
        load(tmp_path / "any.pt", "vit_b_16", input_size=300)
    assert str(caught.value) == (
        "vit_b_16:IMAGENET1K_V1 cannot be built for an input of 300x300 pixels: AssertionError: "
        "Input shape indivisible by patch size!"
    )


@pytest.mark.parametrize("size", [10**400, 10**9])
def test_a_huge_input_size_is_one_line(size: int) -> None:
    for changes in ({"input_size": size}, {"resize": size}):
        with pytest.raises(ClassifierError, match="must be a whole number of pixels, at most 13341"):
            load(None, "resnet18", **changes)


# TOML files.

_TOML = """\
model = "resnet18"
weights = "five.pt"
labels = "../names.txt"
input_size = 64
resize = 80
interpolation = "bicubic"
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 1]
"""


@pytest.fixture
def toml(tmp_path: Path, checkpoint: Path) -> Path:
    """Return a TOML file with all keys; weights and labels lie beside and above it."""
    folder = tmp_path / "flowers"
    folder.mkdir()
    shutil.copyfile(checkpoint, folder / "five.pt")
    (tmp_path / "names.txt").write_text("\n".join(FLOWERS))
    path = folder / "mine.toml"
    path.write_text(_TOML)
    return path


def test_a_toml_file_says_it_all_and_its_paths_are_relative_to_it(toml: Path, five: nn.Module) -> None:
    classifier = load(None, str(toml))
    assert classifier.name == "mine.toml"
    assert classifier.weights == "five.pt"
    assert classifier.labels.names == FLOWERS
    assert classifier.preprocessing == Preprocessing(
        resize=80, crop=64, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 1.0)
    )
    assert_same_logits(classifier, five)


def test_labels_may_stand_in_the_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = "resnet18"\nlabels = ["a", "b"]\n')
    assert ModelSpec.of(str(path)).labels == ("a", "b")


def test_squash_and_channels_may_stand_in_the_toml_file(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f'model = "resnet18"\nweights = "{checkpoint.as_posix()}"\nsquash = true\nchannels = "bgr"\n'
    )
    preprocessing = load_classifier(str(tmp_path / "mine.toml"), device="cpu").preprocessing
    assert (preprocessing.squash, preprocessing.channels) == (True, "bgr")
    with pytest.raises(ClassifierError, match="unknown channels 'brg'; use one of rgb, bgr"):
        load(checkpoint, channels="brg")


_WRONG: dict[str, tuple[str | bytes, str]] = {
    "unknown key": ('model = "resnet18"\n\n# weight = 3\nweight = "x.pt"', r"mine\.toml, line 4: unknown key 'weight'"),
    "a table": ('model = "resnet18"\n[view]\nresize = 3', r"line 2: unknown key 'view'; the keys are model, weights"),
    "title": ('title = "x"', "line 1: unknown key 'title'"),
    "no model": ("resize = 3", "the key model is missing"),
    "nothing": ("", "the key model is missing"),
    "model": ("model = 3", "model cannot be 3"),
    "size": ('model = "x"\ninput_size = "large"', "input_size cannot be 'large'"),
    "true": ('model = "x"\nresize = true', "resize cannot be True"),
    "half": ('model = "x"\nresize = 2.5', r"resize cannot be 2\.5"),
    "mean": ('model = "x"\nmean = 0.5', r"mean cannot be 0\.5"),
    "std": ('model = "x"\nstd = ["a", 1, 2]', "std cannot be"),
    "labels": ('model = "x"\nlabels = [1, 2]', r"labels cannot be \[1, 2\]"),
    "squash": ('model = "x"\nsquash = 1', "squash cannot be 1"),
    "half a pixel": ('model = "x"\nresize = [1]', "resize cannot be"),
    "no toml": ("model = resnet18", r"mine\.toml is not TOML: .*line 1"),
    "bytes": (b"\xff\xfe", r"mine\.toml is not TOML"),
}


def test_a_toml_file_whose_name_is_impossible_is_one_line() -> None:
    with pytest.raises(ClassifierError, match="cannot be read: embedded null byte"):
        ModelSpec.of("a\0.toml")


@pytest.mark.parametrize("case", _WRONG)
def test_a_toml_file_that_is_wrong_says_where(tmp_path: Path, case: str) -> None:
    content, message = _WRONG[case]
    path = tmp_path / "mine.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError, match=message):
        load_classifier(str(path))


def test_a_toml_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"no\.toml cannot be read: No such file"):
        load_classifier(str(tmp_path / "no.toml"))


def test_options_win_over_the_toml_file(cli: Cli, toml: Path, tmp_path: Path) -> None:
    Image.fromarray(random_photo(90, 70).levels).save(tmp_path / "photo.png")
    (tmp_path / "greek.txt").write_text("alpha\nbeta\ngamma\ndelta\nepsilon\n")
    ran = cli("classify", "photo.png", "-m", toml, "--labels", "greek.txt", "--json")
    assert ran.code == 0, ran.err
    seen = json.loads(ran.out)
    assert seen["model"] == "mine.toml"
    assert {prediction["name"] for prediction in seen["top5"]} == {"alpha", "beta", "gamma", "delta", "epsilon"}
    changed = load(None, str(toml), input_size=32, std=(1, 1, 1), labels=list("abcde")).preprocessing
    assert (changed.crop, changed.resize, changed.interpolation, changed.std) == (32, 80, "bicubic", (1, 1, 1))


@pytest.mark.parametrize("name", ["mine.toml", "MINE.TOML"])
def test_what_was_attacked_through_a_toml_file_is_verified_with_that_file_only(
    cli: Cli, toml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    toml.rename(toml.with_name(name))
    monkeypatch.chdir(toml.parent)
    Image.fromarray(random_photo(90, 70).levels).save("photo.png")
    attacked = cli("attack", "photo.png", "-t", "runner-up", "-m", name, "--confidence", "0", "--json", "--no-figure")
    assert attacked.code == 0, attacked.err
    record = json.loads(attacked.out)
    assert (record["model"], record["weights"]) == (name, "five.pt")
    assert record["target"]["name"] in FLOWERS
    check = ("verify", record["outputs"]["adversarial"], "--original", "photo.png")
    unnamed = cli(*check)
    assert unnamed.code == 2
    assert f"was made with {name}; give it with -m" in unnamed.err
    verified = cli(*check, "-m", name)
    assert verified.code == 0, verified.err


# torchvision.

# Left out are the networks of more than 100 million parameters, which cost more than all others together:
# convnext_large, efficientnet_v2_l, regnet_x_32gf, regnet_y_32gf, regnet_y_128gf, vit_h_14, vit_l_16, vit_l_32,
# wide_resnet101_2 and all VGGs. Each family has smaller members but VGG, of which one is taken in.
_LARGEST = 100_000_000
_NETWORKS = [
    name
    for name in models.list_models(module=models)
    if models.get_model_weights(name).DEFAULT.meta["num_params"] <= _LARGEST or name == "vgg11_bn"
]


def _filled(name: str, published: Published, size: int) -> nn.Module:
    """Build a network as its published weights ask for, and fill it at random."""
    options: dict[str, Any] = {"num_classes": 10}
    if name in ("googlenet", "inception_v3"):  # their own way to begin takes minutes
        options |= {"init_weights": False, "aux_logits": True}
    if name.startswith("vit_"):
        options["image_size"] = size
    network = published.build(10, size)
    fill(network, models.get_model(name, weights=None, **options).state_dict(), source=Path("random"))
    if name.startswith("vit_"):  # torchvision starts its head at zero
        nn.init.normal_(network.get_submodule("heads.head").get_parameter("weight"))
    return network.eval()


@pytest.mark.parametrize("name", _NETWORKS)
def test_every_torchvision_network_has_a_gradient(name: str) -> None:
    torch.manual_seed(0)
    size = {"maxvit_t": 224, "inception_v3": 96}.get(name, 64)  # as small as it can be
    published = find(name)
    network = _filled(name, published, size)
    assert getattr(network, "transform_input", True)
    assert getattr(network, "aux_logits", True)
    mean, std = published.preprocessing.mean, published.preprocessing.std
    classifier = Classifier(
        name=name,
        network=network,
        preprocessing=Preprocessing(resize=size, crop=size, interpolation="bilinear", mean=mean, std=std),
        labels=Labels(map(str, range(10))),
        device=torch.device("cpu"),
    )
    seen = torch.randint(0, 256, (1, 3, size, size)).float().requires_grad_()
    logits = GradientNetwork(classifier, "fp32").logits(seen)
    (gradient,) = torch.autograd.grad(logits[0, 3] - logits[0, 4], seen)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).float().mean() > 0.5
