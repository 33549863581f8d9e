"""Image classifiers of Hugging Face, small and random: the files are judged by transformers' own pipeline."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.load import labels_of, load_classifier
from advimg.classifiers.processors import described
from advimg.classifiers.sources.base import listed
from advimg.classifiers.spec import ModelSpec
from advimg.errors import ClassifierError, UsageError
from advimg.images.photo import Photo
from tests.conftest import Cli, random_photo

transformers: Any = pytest.importorskip("transformers")

from tests.hugging_face import FAMILIES, processor_of, save  # noqa: E402 - it needs transformers

# Of these the random network says nearly the same of every picture, whatever its weights are scaled to.
_IMMOVABLE = {"efficientnet", "mobilevit", "mobilevitv2"}
_SIZES = (97, 131), (203, 97), (64, 300), (33, 35)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return Hugging Face's cache: empty, and no network to fill it from."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model, in a place of its own."""
    folder = tmp_path_factory.mktemp("vit") / "model"
    save("vit", folder)
    return folder


def _processed(processor: Any, picture: Image.Image) -> Any:
    return processor(images=picture, return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_differentiable_preprocessing_is_that_of_the_processor(name: str, backend: str) -> None:
    processor = processor_of(name, backend)
    preprocessing = described(partial(_processed, processor), processor, name)
    deviations = 255 * torch.tensor(preprocessing.std).view(3, 1, 1)
    for seed, (width, height) in enumerate(_SIZES):
        levels = random_photo(width, height, seed).levels
        given = processor(images=Image.fromarray(levels), return_tensors="pt")["pixel_values"][0]
        form = preprocessing.resize_crop(width, height)
        rows, columns = form.window
        ours = form.forward(torch.tensor(levels).permute(2, 0, 1)[:, rows, columns].float())
        assert ((preprocessing.normalise(ours) - given).abs() * deviations).max() < 1.01
        assert torch.equal(preprocessing.stock(Image.fromarray(levels)), given)


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - _IMMOVABLE))
def test_a_file_is_the_target_in_the_pipeline(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save(name, folder)
    classifier = load_classifier(f"hf:{folder}", device="cpu")
    photo, target = _undecided(classifier)
    outcome = advimg.attack(photo, model=classifier, target=target, eps=4, steps=60, refine=0, confidence=0)
    assert outcome.record.fooled
    outcome.save(tmp_path / "adversarial.png")
    assert np.abs(_levels(tmp_path / "adversarial.png") - photo.levels).max() <= 4
    first, *_ = transformers.pipeline("image-classification", model=str(folder))(str(tmp_path / "adversarial.png"))
    assert first["label"] == f"LABEL_{target}"
    assert first["score"] == pytest.approx(outcome.record.confidence, abs=1e-4)


def _undecided(classifier: Classifier) -> tuple[Photo, int]:
    """Return the photo of a few whose first two classes are nearest, and the second of them."""
    photos = [random_photo(120, 90, seed) for seed in range(8)]
    tops = [classifier.judge_photo(photo).top(2) for photo in photos]
    gaps = [first.confidence - second.confidence for first, second in tops]
    chosen = gaps.index(min(gaps))
    return photos[chosen], tops[chosen][1].index


def _levels(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_from_the_command_line(vit: Path, cli: Cli, tmp_path: Path) -> None:
    classifier = load_classifier(f"hf:{vit}", device="cpu")
    photo, target = _undecided(classifier)
    Image.fromarray(photo.levels).save(tmp_path / "photo.png")
    out = tmp_path / "out.png"
    model = f"hf:{vit}"
    options = ["-m", model, "-t", str(target), "--eps", "4", "--confidence", "0", "--device", "cpu"]
    result = cli("attack", tmp_path / "photo.png", *options, "-o", out, "--json")
    assert result.code == 0, result.err
    record = json.loads(result.out)
    assert record["model"] == "hf:model"
    assert str(vit.parent) not in result.out
    assert record["view"]["preprocess"] == "ViTImageProcessor"
    assert cli("verify", out, "--original", tmp_path / "photo.png", "-m", model).code == 0


def test_a_configuration_need_not_name_its_class(vit: Path, tmp_path: Path) -> None:
    shutil.copytree(vit, tmp_path / "model")
    _edit(tmp_path / "model", "config.json", architectures=None)
    photo = random_photo(50, 40)
    bare, named = (load_classifier(f"hf:{each}", device="cpu").judge_photo(photo) for each in (tmp_path / "model", vit))
    assert torch.equal(bare.probabilities, named.probabilities)


def test_the_classes_of_a_model_are_those_of_its_configuration(vit: Path) -> None:
    assert labels_of(ModelSpec.of(f"hf:{vit}")).names == tuple(f"LABEL_{index}" for index in range(5))


def test_weights_of_one_s_own_are_a_folder_of_their_own(vit: Path) -> None:
    with pytest.raises(ClassifierError, match="comes with its weights; for others, put the model's files"):
        load_classifier(f"hf:{vit}", weights=vit / "model.safetensors", device="cpu")


def test_timm_s_names_of_the_hub(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model("test_resnet.r160_in1k", pretrained=False, num_classes=7).eval()
    folder = tmp_path / "model"
    timm.models.save_for_hf(network, folder, model_config={"num_classes": 7}, safe_serialization=True)
    _edit(folder, "config.json", model_args={})
    classifier = load_classifier(f"hf-hub:{folder}", device="cpu")
    assert (classifier.preprocessing.size, classifier.preprocessing.resize) == ((160, 160), 168)
    levels = random_photo(200, 170).levels
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        expected = network(transform(Image.fromarray(levels))[None]).double().softmax(1)[0]
    torch.testing.assert_close(classifier.judge(levels).probabilities, expected)


def test_weights_in_several_files(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    shutil.copytree(vit, folder)
    model = transformers.AutoModelForImageClassification.from_pretrained(vit)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    assert (folder / "model.safetensors.index.json").exists()
    photo = random_photo(50, 40)
    whole, parts = (load_classifier(f"hf:{each}", device="cpu").judge_photo(photo) for each in (vit, folder))
    assert torch.equal(whole.probabilities, parts.probabilities)


def test_a_model_in_the_cache_needs_no_network_and_is_listed(vit: Path, hub: Path) -> None:
    commit = "0" * 40
    repository = hub / "models--someone--small-vit"
    shutil.copytree(vit, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert load_classifier("hf:someone/small-vit", device="cpu").name == "hf:someone/small-vit"
    assert [(each.name, each.on_disk) for each in listed("hf:")] == [("hf:someone/small-vit", True)]


def test_a_cache_without_the_image_processor_names_the_command_that_fetches_it(vit: Path, hub: Path) -> None:
    commit = "0" * 40
    repository = hub / "models--someone--small-vit"
    shutil.copytree(vit, repository / "snapshots" / commit)
    (repository / "snapshots" / commit / "preprocessor_config.json").unlink()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    with pytest.raises(ClassifierError, match="`hf download someone/small-vit` fetches all of its files"):
        load_classifier("hf:someone/small-vit", device="cpu")


def test_a_prefix_decides_before_a_suffix() -> None:
    with pytest.raises(ClassifierError, match=r"`hf download someone/net\.onnx` fetches it"):
        load_classifier("hf:someone/net.onnx", device="cpu")


def _edit(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _of_another_task(folder: Path) -> None:
    _edit(folder, "config.json", architectures=["ViTForMaskedImageModeling"])


def _of_its_own_code(folder: Path) -> None:
    _edit(folder, "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})


def _of_many_labels(folder: Path) -> None:
    _edit(folder, "config.json", problem_type="multi_label_classification")


def _damaged(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _without_the_name_of_a_class(folder: Path) -> None:
    _edit(folder, "config.json", id2label={str(index): f"LABEL_{index}" for index in range(1, 6)})


def _of_odd_architectures(folder: Path) -> None:
    _edit(folder, "config.json", architectures=5, model_type="bert")


def _of_a_damaged_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ["a"]}')


def _of_parts_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _without_a_head(folder: Path) -> None:
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    model.vit.save_pretrained(folder)
    _edit(folder, "config.json", architectures=["ViTForImageClassification"])


def _without_a_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (_of_another_task, UsageError, "is no image classifier but a ViTForMaskedImageModeling"),
        (_of_its_own_code, ClassifierError, "it needs code of its own, which is never run"),
        (_of_many_labels, UsageError, "does not choose one class of several (it is multi_label_classification)"),
        (_without_the_name_of_a_class, ClassifierError, "has no name for class 0 of 5"),
        (_of_odd_architectures, UsageError, "is no image classifier but a bert"),
        (_of_a_damaged_index, ClassifierError, "is no index of files of weights beside it"),
        (_of_parts_elsewhere, ClassifierError, "is no index of files of weights beside it"),
        (_damaged, ClassifierError, "config.json is no configuration of a model"),
        (_pickled, ClassifierError, "has no weights in safetensors; others may hold code, and are not read"),
        (_without_a_head, ClassifierError, "lack 2 tensors, such as classifier.bias"),
        (_without_a_processor, ClassifierError, "has no image processor that can be used: "),
    ],
)
def test_models_that_cannot_be_used(
    change: Any, error: type[Exception], message: str, vit: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(vit, folder)
    change(folder)
    with pytest.raises(error) as caught:
        load_classifier(f"hf:{folder}", device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("hf:someone/unknown", ClassifierError, "where there is a network, `hf download someone/unknown` fetches it"),
        ("hf:not a name", UsageError, "is no name of a repository, such as hf:google/vit-base-patch16-224"),
        ("hf:./nowhere", UsageError, "nowhere is no folder of a model; a file config.json was expected in it"),
    ],
)
def test_names_of_nothing(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        load_classifier(name, device="cpu")
    assert message in str(caught.value)


def test_what_the_processor_does_is_not_to_be_changed(vit: Path) -> None:
    with pytest.raises(ClassifierError, match=r"a preprocessing of its own \(ViTImageProcessor\), which settles crop"):
        load_classifier(f"hf:{vit}", input_size=16, device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("PerceiverImageProcessor", "does something else than resize, crop and normalise"),
        ("TextNetImageProcessor", r"makes inputs of several sizes \(864x640, 640x864"),
        ("Siglip2ImageProcessor", r"makes an input of shape \[1, 256, 768\]"),
        ("ImageGPTImageProcessor", "fails: ValueError: Clusters must be provided"),
    ],
)
def test_processors_that_do_something_else(name: str, message: str) -> None:
    processor = getattr(transformers, name)()
    with pytest.raises(ClassifierError, match=message):
        described(partial(_processed, processor), processor, "model")


def test_without_transformers_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ClassifierError, match=r"pip install 'advimg-cli\[hf\]'"):
        load_classifier("hf:someone/model", device="cpu")


def test_transformers_is_imported_only_for_its_models() -> None:
    code = (
        "import sys; from advimg.classifiers.load import load_classifier; load_classifier('efficientnet_lite0'); "
        "sys.exit('transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
