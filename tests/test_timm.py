"""timm's classifiers: names, preprocessing, checkpoints and published weights."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from advimg.classifiers.load import load_classifier
from advimg.classifiers.sources.base import find
from advimg.errors import ClassifierError, UsageError
from tests.conftest import Cli, random_photo
from tests.test_sources import FLOWERS, assert_same_logits, load, prefixed

timm: Any = pytest.importorskip("timm")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return Hugging Face's cache: empty, and no network to fill it from."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("timm/resnet18", "timm/resnet18.a1_in1k"),
        ("timm/resnet18.tv_in1k", "timm/resnet18.tv_in1k"),
        ("timm/test_vit.r160_in1k", "timm/test_vit.r160_in1k"),
    ],
)
def test_timm_names_with_and_without_a_tag(name: str, full: str) -> None:
    published = find(name)
    assert published.name == full
    assert published.labels[144] == "pelican"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet81", r"unknown model 'timm/resnet81'; did you mean timm/resnet\d+"),
        ("timm/qqqq", r"unknown model 'timm/qqqq'; `advimg models timm/` lists them"),
        ("timm/", r"unknown model 'timm/'"),
        ("timm/resnet18.zzz", r"timm/resnet18\.zzz has no such weights; use timm/resnet18\.a1_in1k or .*fb_ssl"),
        ("timm/aimv2_large_patch14_224", "has no classes: it is no classifier"),
        ("timm/vit_base_patch16_clip_224.openai", "has no classes: it is no classifier"),  # 512 are its embedding's
    ],
)
def test_timm_models_that_are_unknown_or_see_no_classes(hub: Path, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_classifier(name, device="cpu")


def test_without_timm_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ClassifierError, match=r"need timm: pip install 'advimg-cli\[timm\]'"):
        load_classifier("timm/resnet18", device="cpu")


def _spread() -> list[str]:
    """Return a name for each kind of preprocessing of timm's classifiers."""
    ways: dict[tuple[object, ...], str] = {}
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        if config.num_classes and config.crop_pct <= 1:
            ways.setdefault((config.crop_mode, config.interpolation, config.input_size, config.crop_pct), name)
    return list(ways.values())


def test_stock_is_timm_s_own_preprocessing() -> None:
    pictures = [Image.fromarray(random_photo(*size).levels) for size in ((97, 131), (300, 211))]
    names = _spread()
    preprocessings = [find(f"timm/{name}").preprocessing for name in names]
    assert {(preprocessing.squash, preprocessing.interpolation) for preprocessing in preprocessings} == {
        (False, "bilinear"),
        (False, "bicubic"),
        (True, "bicubic"),
    }
    assert len({preprocessing.crop for preprocessing in preprocessings}) > 20
    for name, preprocessing in zip(names, preprocessings, strict=True):
        config = timm.data.resolve_model_data_config({}, pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        official = timm.data.create_transform(**config, is_training=False)
        for picture in pictures:
            assert torch.equal(preprocessing.stock(picture), official(picture)), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"crop_mode": "border"},
            "its preprocessing, with borders, is not supported",
        ),
        ({"input_size": (3, 64, 32)}, "timm/resnet18 cannot be attacked: its preprocessing, to 32x64 pixels, is not"),
        ({"crop_pct": 1.15}, "timm/resnet18 cannot be attacked"),  # a crop that is larger than the picture
    ],
    ids=str,
)
def test_preprocessing_that_is_not_supported_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    config = timm.get_pretrained_cfg("resnet18")
    for key, value in changes.items():
        setattr(config, key, value)
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: config)
    with pytest.raises(ClassifierError, match=message):
        find("timm/resnet18")


def test_a_checkpoint_of_a_timm_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_resnet", num_classes=5).eval()
    torch.save({"state_dict": prefixed("module.", reference.state_dict())}, tmp_path / "mine.pt")
    classifier = load(tmp_path / "mine.pt", "timm/test_resnet", labels=FLOWERS)
    assert classifier.labels.names == FLOWERS
    assert_same_logits(classifier, reference)


def test_a_checkpoint_of_a_timm_vit_of_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = timm.create_model("test_vit", num_classes=5, img_size=96).eval()
    torch.save(reference.state_dict(), tmp_path / "mine.pt")
    classifier = load(tmp_path / "mine.pt", "timm/test_vit", input_size=96)
    assert classifier.preprocessing.crop == 96
    assert_same_logits(classifier, reference, 96)


def publish(hub: Path, name: str, network: nn.Module) -> Path:
    """Put a network's weights where the hub's client would."""
    folder = hub / f"models--timm--{name}"
    revision = "0123456789abcdef0123456789abcdef01234567"
    path = folder / "snapshots" / revision / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(network.state_dict(), path)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    return path


def test_timm_s_published_weights_are_read_from_the_hub_s_cache(hub: Path) -> None:
    torch.manual_seed(0)
    path = publish(hub, "resnet18.a1_in1k", timm.create_model("resnet18"))
    classifier = load(None, "timm/resnet18")
    assert classifier.name == "timm/resnet18.a1_in1k"
    assert classifier.weights is None
    assert_same_logits(classifier, timm.create_model("resnet18.a1_in1k", pretrained=True).eval())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ClassifierError, match=r"model\.safetensors of timm/resnet18 are damaged; delete that file"):
        load(None, "timm/resnet18")


def test_another_input_size_for_timm_s_published_vit(hub: Path, cli: Cli, tmp_path: Path) -> None:
    publish(hub, "vit_tiny_patch16_224.augreg_in21k_ft_in1k", timm.create_model("vit_tiny_patch16_224"))
    Image.fromarray(random_photo(90, 70).levels).save(tmp_path / "photo.png")
    ran = cli("classify", "photo.png", "-m", "timm/vit_tiny_patch16_224", "--input-size", "96", "--json")
    assert "unexpected" not in ran.err
    assert ran.code == 0, ran.err


def test_without_a_network_timm_s_weights_are_one_line(hub: Path) -> None:
    with pytest.raises(ClassifierError, match=r"cannot download .* of timm/resnet18 .*--weights FILE") as caught:
        load(None, "timm/resnet18")
    assert "\n" not in str(caught.value)
