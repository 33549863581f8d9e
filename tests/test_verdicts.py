"""Verdicts that nothing changes: not the file of the weights, not the caller's settings, not other threads."""

import gc
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient import network as gradient_network
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.load import load_classifier
from advimg.errors import ClassifierError
from tests.conftest import linear_classifier, random_photo

PHOTO = random_photo(60, 50)


# The file of the weights.


def state_of(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state: dict[str, Tensor] = models.squeezenet1_1(weights=None, num_classes=5).state_dict()
    return state


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_becomes_of_the_file_does_not_change_the_classifier(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    save: Callable[[Any, Path], object] = save_file if suffix == ".safetensors" else torch.save
    save(state_of(0), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    classifier = load_classifier("squeezenet1_1", weights=path, input_size=64, device="cpu")
    before = classifier.judge(PHOTO.levels).probabilities
    save(state_of(1), tmp_path / f"nine{suffix}")
    other = (tmp_path / f"nine{suffix}").read_bytes()
    assert len(other) == path.stat().st_size
    with path.open("r+b") as file:  # the same file, as torch.save writes it
        file.write(other)
    assert torch.equal(classifier.judge(PHOTO.levels).probabilities, before)
    os.truncate(path, 1)
    assert torch.equal(classifier.judge(PHOTO.levels).probabilities, before)
    assert classifier.weights_sha256 == sha256


def test_the_hash_is_that_of_the_bytes_that_were_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever replaces the file between two looks at it."""
    path = tmp_path / "mine.pt"
    torch.save(state_of(0), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    expected = load_classifier("squeezenet1_1", weights=path, input_size=64, device="cpu").judge(PHOTO.levels)
    load = torch.load

    def late(*arguments: Any, **options: Any) -> Any:
        torch.save(state_of(1), path)
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", late)
    classifier = load_classifier("squeezenet1_1", weights=path, input_size=64, device="cpu")
    assert torch.equal(classifier.judge(PHOTO.levels).probabilities, expected.probabilities)
    assert classifier.weights_sha256 == sha256


# The caller's settings.


class _Making(nn.Module):
    """Makes a tensor of the default type on its way."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.full((x.shape[-1],), 1 / 3)


def conv_classifier(classes: int = 3, size: int = 24) -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        _Making(),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.LazyLinear(classes),
    ).eval()
    network(torch.zeros(1, 3, size, size))
    return Classifier.wrap(
        network,
        labels=[f"class {index}" for index in range(classes)],
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        resize=size,
        crop=size,
        device="cpu",
    )


@contextmanager
def _precision(value: str) -> Iterator[None]:
    torch.set_float32_matmul_precision(value)
    try:
        yield
        assert torch.get_float32_matmul_precision() == value
    finally:
        torch.set_float32_matmul_precision("highest")


@contextmanager
def _convolutions() -> Iterator[None]:
    backend: Any = torch.backends.mkldnn.conv  # type: ignore[attr-defined]
    before, backend.fp32_precision = backend.fp32_precision, "bf16"
    try:
        yield
        assert backend.fp32_precision == "bf16"
    finally:
        backend.fp32_precision = before


@contextmanager
def _doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def _autocast() -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield
        assert torch.is_autocast_enabled("cpu")


_SETTINGS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "autocast": _autocast,
    "high": lambda: _precision("high"),
    "medium": lambda: _precision("medium"),
    "convolutions": _convolutions,
    "doubles": _doubles,
}


@pytest.mark.parametrize("name", _SETTINGS)
def test_verdicts_and_attacks_are_those_of_32_bits_whatever_the_caller_has_set(name: str) -> None:
    classifier = conv_classifier()
    expected = classifier.judge(PHOTO.levels).probabilities
    target = int(expected.argmin())
    attacked = advimg.attack(PHOTO, target, model=classifier, eps=4, precision="fp32").levels
    same = conv_classifier()
    with _SETTINGS[name]():
        assert torch.equal(classifier.judge(PHOTO.levels).probabilities, expected)
        again = advimg.attack(PHOTO, target, model=same, eps=4, precision="fp32").levels
    assert (again == attacked).all()


@pytest.mark.parametrize("name", _SETTINGS)
def test_a_classifier_is_loaded_in_32_bits_whatever_the_caller_has_set(tmp_path: Path, name: str) -> None:
    torch.save(state_of(0), tmp_path / "mine.pt")

    def judged() -> Tensor:
        classifier = load_classifier("squeezenet1_1", weights=tmp_path / "mine.pt", input_size=64, device="cpu")
        return classifier.judge(PHOTO.levels).probabilities

    expected = judged()
    with _SETTINGS[name]():
        assert torch.equal(judged(), expected)


def test_training_mode_does_not_change_verdicts_nor_do_verdicts_change_the_network() -> None:
    classifier = conv_classifier()
    network = classifier.network
    expected = classifier.judge(PHOTO.levels).probabilities
    target = int(expected.argmin())
    attacked = advimg.attack(PHOTO, target, model=classifier, eps=4).levels
    network.train()
    network.get_submodule("6").eval()  # as those do who keep a norm's statistics
    modes = [module.training for module in network.modules()]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert torch.equal(classifier.judge(PHOTO.levels).probabilities, expected)
    assert (advimg.attack(PHOTO, target, model=classifier, eps=4).levels == attacked).all()
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_training_mode_comes_back_also_after_an_error() -> None:
    classifier = linear_classifier()
    classifier.network.append(nn.Linear(7, 7))  # type: ignore[operator]
    classifier.network.train()
    with pytest.raises(ClassifierError, match="linear fails on an input of 8x8 pixels: RuntimeError: mat1 and mat2"):
        classifier.judge(PHOTO.levels)
    assert all(module.training for module in classifier.network.modules())


# Threads.


def levels_of(photo: int, classifier: Classifier) -> bytes:
    result = advimg.attack(random_photo(30, 24, photo), photo % 3, model=classifier, eps=3, steps=12, precision="fp32")
    return result.levels.tobytes()


@pytest.mark.parametrize("shared", [True, False])
def test_attacks_from_threads_are_those_made_one_after_another(shared: bool) -> None:
    one = conv_classifier()
    # Made here: torch's seed is the whole process's.
    classifiers = [one if shared else conv_classifier() for _ in range(45)]

    def attacked(photo: int) -> bytes:
        return levels_of(photo, classifiers[photo])

    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(attacked, range(45)))
    assert together == [levels_of(photo, one) for photo in range(45)]


def test_a_network_can_run_while_another_thread_traces_one() -> None:
    """Also one that advimg knows nothing of."""
    mine, picture = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)),
        torch.ones(2, 3, 8, 8),
    )
    expected = mine(picture)
    stop = threading.Event()

    def run() -> int:
        count = 0
        while not stop.is_set():
            assert torch.equal(mine(picture), expected)
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        ran = pool.submit(run)
        try:
            for _ in range(20):
                GradientNetwork(conv_classifier())
        finally:
            stop.set()
        assert ran.result() > 0


def test_softness_is_each_thread_s_own() -> None:
    classifier = conv_classifier()
    seen = torch.randint(0, 256, (1, 3, 24, 24), generator=torch.Generator().manual_seed(1)).float()

    def gradient(softness: float) -> Tensor:
        leaf = seen.clone().requires_grad_()
        logits = GradientNetwork(classifier, "fp32").logits(leaf, [(softness, softness)])
        (slope,) = torch.autograd.grad(logits[0, 0], leaf)
        return slope

    values = [0.0, 0.2, 0.9] * 20
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(gradient, values))
    alone = {value: gradient(value) for value in set(values)}
    assert all(torch.equal(slope, alone[value]) for slope, value in zip(together, values, strict=True))
    assert not torch.allclose(alone[0.0], alone[0.9], rtol=0.05)


# The gradient network is kept.


def count_made(monkeypatch: pytest.MonkeyPatch) -> list[Classifier]:
    made: list[Classifier] = []
    make = gradient_network._made

    def counted(classifier: Classifier) -> Any:
        made.append(classifier)
        return make(classifier)

    monkeypatch.setattr(gradient_network, "_made", counted)
    return made


def test_the_gradient_network_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, made = linear_classifier(), count_made(monkeypatch)
    for _ in range(2):
        GradientNetwork(classifier, "fp32")
        GradientNetwork(classifier, "bf16")
        GradientNetwork(classifier)
    assert made == [classifier]


@pytest.mark.parametrize("change", ["in place", "data", "module"])
def test_a_network_that_was_changed_gets_another(change: str) -> None:
    classifier = conv_classifier()
    before = GradientNetwork(classifier, "fp32")
    head = classifier.network.get_submodule("9").get_parameter("weight")
    if change == "in place":
        with torch.no_grad():
            head.mul_(2)
    elif change == "data":
        head.data.mul_(2)
    else:
        classifier.network.append(nn.Tanh())  # type: ignore[operator]
    seen = torch.randint(0, 256, (2, 3, 24, 24)).float()
    logits = GradientNetwork(classifier, "fp32").logits(seen)
    torch.testing.assert_close(
        logits, classifier.network(classifier.preprocessing.normalise(seen)), rtol=1e-3, atol=1e-3
    )
    assert not torch.allclose(before.logits(seen), logits, rtol=0.01)


def test_a_classifier_that_nobody_needs_is_freed_with_its_gradient_network() -> None:
    classifier = conv_classifier()
    advimg.attack(PHOTO, 1, model=classifier, steps=2)
    kept = ref(classifier), ref(classifier.network), ref(GradientNetwork(classifier, "fp32")._form.network)
    assert None not in [each() for each in kept]
    del classifier
    gc.collect()
    assert [each() for each in kept] == [None, None, None]
