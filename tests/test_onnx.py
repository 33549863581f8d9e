"""ONNX files: judged by onnxruntime, attacked through a copy in torch."""

import copy
import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, fx, nn

import advimg
from advimg.api import open_photo
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.classifiers.gradient.soft_relu import SoftReLU
from advimg.classifiers.load import load_classifier
from advimg.errors import ClassifierError, UsageError
from advimg.models import Models
from tests.conftest import Cli, random_photo, sample
from tests.referee import judge

onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")

_SIDE = 32
_MEAN, _STD = (np.array(values, np.float32) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


class _Small(nn.Module):
    """A convolution with batch norm, a branch and a head; what exporters make constants of is in it."""

    def __init__(self, classes: int = 4, *, view: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8))
        self.relu = nn.ReLU()
        self.branch = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8 * 16, classes)
        nn.init.normal_(self.head.weight, std=0.3)
        self._view = view

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = nn.functional.avg_pool2d(x + self.relu(self.branch(x)), 4)
        logits: Tensor = self.head(x.reshape(x.shape[0], -1) if self._view else x.flatten(1))
        return logits


class _Around(nn.Module):
    """A network with something before and after it."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Any] = lambda x: x,
    ) -> None:
        super().__init__()
        self.network, self._before, self._after = network, before, after

    def forward(self, x: Tensor) -> Any:
        return self._after(self.network(self._before(x)))


def export(
    network: nn.Module, path: Path, *, example: Tensor | None = None, dynamic: bool = False, opset: int = 17
) -> Path:
    if example is None:
        example = torch.randn(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is the older of torch's two; the other needs another package
        torch.onnx.export(
            network.eval(),
            (example,),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["picture"],
            dynamic_axes={"picture": {0: "n"}} if dynamic else None,
        )
    return path


def load(path: Path, **options: Any) -> Classifier:
    return load_classifier(str(path), device="cpu", **options)


def onnx_confidences(path: Path, picture: Path) -> np.ndarray[Any, Any]:
    """Judge a picture with PIL, numpy and onnxruntime alone: shorter side 37, crop 32, ImageNet's mean and std."""
    with Image.open(picture) as opened:
        image = opened.convert("RGB")
    share = round(_SIDE / 0.875) / min(image.size)
    image = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BILINEAR)
    left, top = round((image.width - _SIDE) / 2), round((image.height - _SIDE) / 2)
    levels = np.asarray(image.crop((left, top, left + _SIDE, top + _SIDE)), np.float32)
    normalised = (levels / 255 - _MEAN) / _STD
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"picture": normalised.transpose(2, 0, 1)[None]})
    exponentials = np.exp(logits[0].astype(np.float64) - logits[0].max())
    probabilities: np.ndarray[Any, Any] = exponentials / exponentials.sum()
    return probabilities


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return export(_Small(), tmp_path / "small.onnx")


# What files take and give.

_PICTURES = torch.randn(3, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(1))

_KINDS: dict[str, tuple[Callable[[nn.Module], nn.Module], dict[str, Any]]] = {
    "one picture": (lambda net: net, {}),
    "any number": (lambda net: net, {"dynamic": True}),
    "two at a time": (lambda net: net, {"example": _PICTURES[:2]}),
    "a newer version": (lambda net: net, {"opset": 20}),
    "softmax": (lambda net: _Around(net, after=lambda y: y.softmax(1)), {}),
    "softmax by hand": (lambda net: _Around(net, after=lambda y: y.exp() / y.exp().sum(1, keepdim=True)), {}),
    "channels last": (
        lambda net: _Around(net, before=lambda x: x.permute(0, 3, 1, 2)),
        {"example": _PICTURES[:1].permute(0, 2, 3, 1)},
    ),
    "two outputs": (lambda net: _Around(net, after=lambda y: (y[:, :, None], y, 2 * y)), {}),
    "float16": (
        lambda net: _Around(net.half(), after=lambda y: y.float()),
        {"example": _PICTURES[:1].half()},
    ),
}


@pytest.mark.parametrize("kind", _KINDS)
def test_logits_and_gradients_are_those_of_the_exported_network(tmp_path: Path, kind: str) -> None:
    wrapped, options = _KINDS[kind]
    path = export(wrapped(_Small(view=True)), tmp_path / "net.onnx", **options)
    classifier, reference = load(path), _Small(view=True).eval()
    expected = reference(_PICTURES).log_softmax(1)
    rough = 2e-2 if kind == "float16" else 1e-4
    torch.testing.assert_close(classifier.network(_PICTURES).log_softmax(1), expected, rtol=rough, atol=rough)
    seen = torch.rand(3, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(2)).mul(255)
    gradients = []
    for network in (
        GradientNetwork(classifier, "fp32").logits,
        lambda x: reference(classifier.preprocessing.normalise(x)),
    ):
        leaf = seen.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(leaf).log_softmax(1)[:, 2].sum(), leaf)
        gradients.append(gradient)
    assert gradients[1].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < (0.05 if kind == "float16" else 1e-3) * gradients[1].norm()


@pytest.mark.parametrize("kind", ["one picture", "any number", "a newer version", "channels last", "softmax"])
def test_the_copy_is_fused_and_softened_like_any_network(tmp_path: Path, kind: str) -> None:
    wrapped, options = _KINDS[kind]
    network = GradientNetwork(load(export(wrapped(_Small(view=True)), tmp_path / "net.onnx", **options)), "fp32")
    form = network._form.network
    assert isinstance(form, fx.GraphModule)
    assert sum(isinstance(module, SoftReLU) for module in form.modules()) == 2
    # Batch norm and padding have gone into the convolutions.
    assert not any(isinstance(module, nn.BatchNorm2d) for module in form.modules())


def test_levels_are_fed_to_a_file_that_takes_whole_numbers(tmp_path: Path) -> None:
    reference = _Small().eval()
    network = _Around(reference, before=lambda x: x.float() / 127.5 - 1)
    path = export(network, tmp_path / "net.onnx", example=torch.zeros(1, 3, _SIDE, _SIDE, dtype=torch.uint8))
    classifier, photo = load(path, resize=_SIDE), random_photo(_SIDE, _SIDE)
    levels = torch.from_numpy(photo.levels.copy()).permute(2, 0, 1)[None]
    expected = reference(levels / 127.5 - 1).softmax(1)[0]
    torch.testing.assert_close(classifier.judge(photo.levels).probabilities.float(), expected)
    assert advimg.attack(photo, 3, model=classifier, eps=64, confidence=0.5).record.fooled


def test_a_batch_that_is_part_of_the_graph_is_looped_over(tmp_path: Path) -> None:
    """As with the class token of a transformer, which is written as often as there are pictures."""
    token = torch.zeros(1, 1, _SIDE, _SIDE)
    network = _Around(_Small(), before=lambda x: torch.cat([x, token], 1)[:, :3])
    classifier = load(export(network, tmp_path / "net.onnx"))
    expected = _Small().eval()(_PICTURES)
    leaf = classifier.preprocessing.normalise(torch.zeros(3, 3, _SIDE, _SIDE))
    assert leaf.shape == _PICTURES.shape
    assert classifier.twin is not None
    torch.testing.assert_close(classifier.twin()(_PICTURES), expected, rtol=1e-4, atol=1e-4)


def test_gelu_is_known(tmp_path: Path) -> None:
    network = _Small()
    network.relu = nn.GELU()  # type: ignore[assignment]
    classifier = load(export(network, tmp_path / "net.onnx", opset=20))
    assert classifier.twin is not None
    torch.testing.assert_close(classifier.twin()(_PICTURES), network.eval()(_PICTURES), rtol=1e-4, atol=1e-4)


# Preprocessing and labels.


def test_the_preprocessing_is_imagenet_s_at_the_file_s_size_and_can_be_changed(small: Path, tmp_path: Path) -> None:
    preprocessing = load(small).preprocessing.to_dict()
    assert preprocessing == {
        "resize": 37,
        "crop": 32,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "squash": False,
    }
    (tmp_path / "mine.toml").write_text(
        'model = "small.onnx"\nresize = 32\nsquash = true\nchannels = "bgr"\nmean = [0, 0, 0]\nstd = [1, 1, 1]\n'
        'labels = ["a", "b", "c", "d"]\n'
    )
    classifier = load(tmp_path / "mine.toml")
    assert classifier.name == "mine.toml"
    assert classifier.labels.names == ("a", "b", "c", "d")
    changed = {"resize": 32, "squash": True, "channels": "bgr", "mean": [0, 0, 0], "std": [1, 1, 1]}
    assert classifier.preprocessing.to_dict() == {**preprocessing, **changed}
    photo = random_photo(50, 40)
    resized = Image.fromarray(photo.levels).resize((32, 32), Image.Resampling.BILINEAR)
    fed = torch.from_numpy(np.asarray(resized)[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(
        classifier.judge(photo.levels).probabilities.float(), _Small().eval()(fed).softmax(1)[0], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("key", "text", "names"),
    [
        ("names", "{0: 'ant', 1: 'bee', 2: 'cat', 3: 'dog'}", ("ant", "bee", "cat", "dog")),
        ("labels", '["ant", "bee", "cat", "dog"]', ("ant", "bee", "cat", "dog")),
        ("labels", '{"1": "bee", "0": "ant", "2": "cat", "3": "dog"}', ("ant", "bee", "cat", "dog")),
        ("names", '["ant", "bee"]', ("class 0", "class 1", "class 2", "class 3")),
        ("names", "__import__('os').abort()", ("class 0", "class 1", "class 2", "class 3")),
        ("author", '["ant", "bee", "cat", "dog"]', ("class 0", "class 1", "class 2", "class 3")),
    ],
)
def test_labels_come_from_the_file(small: Path, key: str, text: str, names: tuple[str, ...]) -> None:
    model = onnx.load(small)
    entry = model.metadata_props.add()
    entry.key, entry.value = key, text
    onnx.save(model, small)
    assert load(small).labels.names == names
    assert load(small, labels=["w", "x", "y", "z"]).labels.names == ("w", "x", "y", "z")


def test_a_thousand_outputs_are_imagenet_s(tmp_path: Path) -> None:
    assert load(export(_Small(1000), tmp_path / "net.onnx")).labels[144] == "pelican"


def test_a_file_of_any_size_and_one_that_is_not_square(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    wide = load(export(network, tmp_path / "wide.onnx", example=torch.zeros(1, 3, 24, 40)))
    assert (wide.preprocessing.size, wide.preprocessing.resize) == ((40, 24), 46)
    assert wide.judge(random_photo(60, 50).levels).probabilities.sum() == pytest.approx(1)
    model = onnx.load(export(network, tmp_path / "any.ONNX"))
    for value, sides in ((model.graph.input[0], (0, 2, 3)), (model.graph.output[0], (0, 1))):
        for side in sides:
            value.type.tensor_type.shape.dim[side].dim_param = f"side{side}"
    onnx.save(model, tmp_path / "any.ONNX")
    for size, resize, options in ((224, 256, {}), (96, 110, {"input_size": 96})):
        classifier = load(tmp_path / "any.ONNX", **options)
        assert (classifier.preprocessing.size, classifier.preprocessing.resize) == ((size, size), resize)
        assert len(classifier.labels) == 4
        picture = torch.randn(1, 3, size, size)
        torch.testing.assert_close(classifier.network(picture), network(picture), rtol=1e-4, atol=1e-5)


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "net.onnx" for folder in ("old", "new")]
    for path in paths:
        path.parent.mkdir()
        export(_Small(), path)
    attacked, _ = Models.of(paths).load("cpu")
    assert [classifier.name for classifier in attacked] == ["old/net.onnx", "new/net.onnx"]


# Hashes.


def test_the_hash_is_that_of_the_file_and_its_data(tmp_path: Path) -> None:
    whole = export(_Small(), tmp_path / "net-20240101.onnx")  # a date, and no digits of its hash
    assert load(whole).weights_sha256 == hashlib.sha256(whole.read_bytes()).hexdigest()
    apart = tmp_path / "apart.onnx"
    onnx.save(onnx.load(whole), apart, save_as_external_data=True, location="apart.data", size_threshold=0)
    classifier, data = load(apart), tmp_path / "apart.data"
    assert classifier.weights_sha256 == hashlib.sha256(apart.read_bytes() + data.read_bytes()).hexdigest()
    torch.testing.assert_close(classifier.network(_PICTURES), load(whole).network(_PICTURES))
    GradientNetwork(classifier, "fp32")
    data.unlink()
    with pytest.raises(ClassifierError, match=r"apart\.onnx keeps its weights in .*apart\.data, which is missing$"):
        load(apart)


# What cannot be used.


def _node(model: Any, kind: str) -> Any:
    return next(node for node in model.graph.node if node.op_type == kind)


def _rank_three(model: Any) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[0]


def _four_channels(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4


def _two_inputs(model: Any) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("other", onnx.TensorProto.FLOAT, [1]))


def _whole_numbers(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64


def _maps(model: Any) -> None:
    convolved = _node(model, "Relu").output[0]
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(convolved, onnx.TensorProto.FLOAT, [1, 8, _SIDE // 2, _SIDE // 2])
    )


def _unknown_operator(model: Any) -> None:
    _node(model, "Relu").op_type = "Rectify"


_BAD: dict[str, tuple[Callable[[Any], None], str]] = {
    "rank three": (_rank_three, r"takes an input of shape \[3, 32, 32\]; pictures \[n, 3, height, width\] or"),
    "four channels": (_four_channels, r"takes an input of shape \[1, 4, 32, 32\]; pictures"),
    "two inputs": (_two_inputs, "has 2 inputs; one was expected"),
    "whole numbers": (_whole_numbers, "takes pictures of int64; float32, float16, float64 or uint8 was expected"),
    "maps": (_maps, r"is no classifier: it gives \[1, 8, 16, 16\]; logits \[n, classes\] were expected"),
    "unknown operator": (_unknown_operator, "^onnxruntime refuses .*: "),
}


@pytest.mark.parametrize("kind", _BAD)
def test_a_file_that_is_no_classifier_of_pictures_is_one_line(small: Path, kind: str) -> None:
    change, message = _BAD[kind]
    model = onnx.load(small)
    change(model)
    onnx.save(model, small)
    with pytest.raises(ClassifierError, match=message) as caught:
        load(small)
    assert "small.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_onnx_file_is_one_line(tmp_path: Path, cli: Cli, coffee: Path) -> None:
    Path("text.onnx").write_text("no model")
    Path("empty.onnx").write_bytes(b"")
    for name, message in (
        ("text.onnx", "text.onnx is not an ONNX file, or is damaged"),
        ("empty.onnx", "empty.onnx is not an ONNX file, or is damaged"),
        ("none.onnx", "there is no file none.onnx; check the path"),
    ):
        ran = cli("classify", coffee, "-m", name)
        assert (ran.code, ran.out) == (1, "")
        assert message in ran.err
        assert "Traceback" not in ran.err


def test_another_input_size_or_weights_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match=r"takes pictures of 32x32 pixels; the input size cannot be 64$"):
        load(small, input_size=64)
    (tmp_path / "mine.pt").touch()
    with pytest.raises(UsageError, match=r"small\.onnx holds its own weights; leave out --weights$"):
        load(small, weights=tmp_path / "mine.pt")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_it_is_named(small: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ClassifierError, match=r"need onnx and onnxruntime: pip install 'advimg-cli\[onnx\]'$"):
        load(small)


def test_without_the_converter_a_file_is_still_a_judge(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx2torch", None)
    classifier = load(small)
    assert classifier.judge(random_photo(40, 40).levels).probabilities.sum() == pytest.approx(1)
    with pytest.raises(ClassifierError, match=r"need onnx2torch: pip install 'advimg-cli\[onnx\]'$"):
        GradientNetwork(classifier, "fp32")


def test_the_judge_is_never_copied(small: Path) -> None:
    with pytest.raises(TypeError, match="cannot pickle"):
        copy.deepcopy(load(small).network)


# From the command line.


def test_a_file_is_attacked_and_verified(cli: Cli, small: Path, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "class 3", "-m", "small.onnx", "-e", 16, "-o", "out.png", "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert (record["model"], record["weights_sha256"]) == (
        "small.onnx",
        hashlib.sha256(small.read_bytes()).hexdigest(),
    )
    seen = onnx_confidences(small, Path("out.png"))
    assert seen.argmax() == 3
    assert seen[3] == pytest.approx(record["confidence"], abs=1e-4)
    # A record may come from anyone, so the file that it names is not opened.
    unnamed = cli("verify", "out.png", "--original", photo)
    assert unnamed.code == 2
    assert "out.png was made with small.onnx; give it with -m" in unnamed.err
    assert cli("verify", "out.png", "--original", photo, "-m", "small.onnx").code == 0


def test_a_file_that_cannot_be_converted_is_a_judge(cli: Cli, tmp_path: Path, photo: Path) -> None:
    model = onnx.load(export(_Small(), tmp_path / "plain.onnx"))
    relu = _node(model, "Relu")
    relu.op_type = "ThresholdedRelu"
    relu.attribute.append(onnx.helper.make_attribute("alpha", 0.0))
    onnx.save(model, tmp_path / "odd.onnx")
    refused = cli("attack", photo, "-t", "class 3", "-m", "odd.onnx", "-o", "out.png")
    assert refused.code == 1
    assert "odd.onnx cannot be attacked: onnx2torch knows no ThresholdedRelu; it can stand in --check-on" in refused.err
    ran = cli(
        "attack", photo, "-t", "class 3", "-m", "plain.onnx", "--check-on", "odd.onnx", "-e", 16, "-o", "out.png",
        "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (checked,) = json.loads(ran.out)["checked"]
    assert (checked["model"], checked["after"][0]["name"]) == ("odd.onnx", "class 3")


def test_options_change_the_preprocessing(cli: Cli, small: Path, photo: Path) -> None:
    options = ("--squash", "--channels", "bgr", "--resize", "32", "--mean", "0", "--std", "1")
    ran = cli("attack", photo, "-t", "class 3", "-m", "small.onnx", *options, "-e", 32, "-o", "out.png", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["view"] == {
        "resize": 32, "crop": 32, "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1], "squash": True,
        "channels": "bgr",
    }  # fmt: skip


def test_two_processes_share_a_file(cli: Cli, small: Path, photo: Path) -> None:
    Path("photos").mkdir()
    for number in range(2):
        Image.fromarray(random_photo(60, 50, number).levels).save(f"photos/{number}.png")
    ran = cli("batch", "photos", "-t", "class 1", "-m", "small.onnx", "--device", "cpu,cpu", "-e", 32, "-O", "out")
    assert ran.code == 0, ran.err
    made = sorted(Path("out").glob("*_class_1.png"))
    assert len(made) == 2
    assert [int(onnx_confidences(small, path).argmax()) for path in made] == [1, 1]


# A network with real weights.


def test_the_bundled_network_exported(lite0: Classifier, tmp_path: Path) -> None:
    path = export(lite0.network, tmp_path / "lite0.onnx", example=torch.zeros(1, 3, 224, 224))
    classifier = load(path, resize=256, interpolation="bicubic", mean=[0.5] * 3, std=[0.5] * 3)
    assert classifier.preprocessing == lite0.preprocessing
    levels = open_photo(sample("chelsea.png")).levels
    ours, theirs = classifier.judge(levels), lite0.judge(levels)
    assert ours.top1 == theirs.top1
    torch.testing.assert_close(ours.probabilities, theirs.probabilities, rtol=1e-3, atol=1e-5)
    outcome = advimg.attack(sample("chelsea.png"), "pelican", model=classifier, eps=4, refine=0)
    outcome.save(tmp_path / "out.png")
    assert judge(tmp_path / "out.png")[0] == 144
