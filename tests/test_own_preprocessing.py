"""A preprocessing of one's own: what follows the crop, the order of channels, and functions that judge.

``filtered`` is how a content filter may see a picture. It shares no code with advimg, and it judges the files here.
"""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import functional

import advimg
from advimg.changes import parse_changes
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.engine.paths import ChangedPath
from advimg.engine.paths import Path as Way
from advimg.errors import AdvimgError, ClassifierError
from advimg.images.decode import read_photo
from advimg.record_schema import read_chunk
from tests import referee
from tests.conftest import linear_classifier, random_photo, sample

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZE = 32
PELICAN = 144

Levels = npt.NDArray[np.uint8]


def as_jpeg(picture: Image.Image, quality: int = 75, **options: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, **options)
    return Image.open(buffer).convert("RGB")


def unchanged(picture: Image.Image) -> Image.Image:
    return picture


def filtered(
    picture: Image.Image,
    *,
    resize: int = SIZE,
    crop: int = SIZE,
    squash: bool = True,
    then: Callable[[Image.Image], Image.Image] = as_jpeg,
    first: Callable[[Image.Image], Image.Image] = unchanged,
    channels: str = "bgr",
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
) -> Tensor:
    """Resize, ``first``, crop, ``then``, and normalise in the order of the channels: [3, crop, crop]."""
    width, height = picture.size
    factor = resize / min(width, height)
    size = (resize, resize) if squash else (int(width * factor), int(height * factor))
    picture = first(picture.resize(size, Image.Resampling.BILINEAR))
    left, top = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    levels = np.asarray(then(picture.crop((left, top, left + crop, top + crop)))).astype(np.float32) / 255
    levels = levels[:, :, ::-1] if channels == "bgr" else levels
    normalised = (torch.from_numpy(levels.copy()) - torch.tensor(mean)) / torch.tensor(std)
    return normalised.permute(2, 0, 1)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 14 * 14, 4)).eval()
    with torch.no_grad():
        network.get_submodule("3").get_parameter("weight").mul_(6)
    return network


@pytest.fixture(scope="module")
def cat() -> Levels:
    with Image.open(sample("chelsea.png")) as picture:
        return np.asarray(picture.convert("RGB").resize((160, 120)))


def wrapped(network: nn.Module, **changes: Any) -> Classifier:
    """Return a classifier that is described as ``filtered`` is, but for changes."""
    described: dict[str, Any] = {
        "resize": SIZE,
        "crop": SIZE,
        "squash": True,
        "then": "jpeg:75",
        "channels": "bgr",
        "mean": MEAN,
        "std": STD,
    }
    return Classifier.wrap(network, labels="abcd", device="cpu", **(described | changes))


def assert_one_line(error: BaseException) -> None:
    assert str(error).isprintable()
    assert len(str(error)) < 300


def seen(network: nn.Module, levels: Levels) -> Tensor:
    """Return the softmax, [classes], by this file's own preprocessing."""
    with torch.inference_mode():
        probabilities: Tensor = network(filtered(Image.fromarray(levels))[None])[0].double().softmax(0)
    return probabilities


# The attack.


@pytest.mark.parametrize("changes", [{"preprocess": filtered}, {}], ids=["its own function", "described"])
def test_the_file_is_the_target_by_independent_code(
    changes: dict[str, Any], network: nn.Module, cat: Levels, tmp_path: Path
) -> None:
    assert seen(network, cat).argmax() != 0
    outcome = advimg.attack(cat, 0, model=wrapped(network, **changes), eps=5)
    assert outcome.record.fooled
    probabilities = seen(network, referee.pixels(outcome.save(tmp_path / "x.png")).astype(np.uint8))
    assert probabilities.argmax() == 0
    assert float(probabilities[0]) == pytest.approx(outcome.record.confidence, abs=1e-4)
    assert outcome.record.linf <= 5


def test_a_file_made_without_what_follows_the_crop_does_not_hold(network: nn.Module, cat: Levels) -> None:
    """Else the test above would show nothing."""
    outcome = advimg.attack(cat, 0, model=wrapped(network, then=None), eps=5)
    assert outcome.record.fooled
    assert seen(network, outcome.levels).argmax() != 0


def test_a_real_network_behind_a_jpeg(lite0: Classifier, tmp_path: Path) -> None:
    half = (0.5, 0.5, 0.5)
    encoded = partial(filtered, resize=224, crop=224, channels="rgb", mean=half, std=half)
    wrap = partial(
        Classifier.wrap, lite0.network, labels=lite0.labels.names, mean=half, std=half, resize=224, squash=True
    )
    published = referee.published_network()
    held = []
    for classifier in (wrap(then="jpeg:75", preprocess=encoded, device="cpu"), wrap(device="cpu")):
        outcome = advimg.attack(sample("chelsea.png"), PELICAN, model=classifier, eps=4, precision="fp32")
        assert outcome.record.fooled
        path = outcome.save(tmp_path / "x.png", overwrite=True)
        with torch.inference_mode():
            held.append(int(published(encoded(referee.open_upright(path))[None]).argmax()) == PELICAN)
    assert held == [True, False]


def test_an_ensemble_with_a_plain_one(network: nn.Module, cat: Levels) -> None:
    classifiers = [wrapped(network, preprocess=filtered), wrapped(network, then=None, channels="rgb", squash=False)]
    outcome = advimg.attack(cat, 0, model=classifiers, eps=12)
    assert outcome.record.fooled
    assert seen(network, outcome.levels).argmax() == 0
    plain = filtered(Image.fromarray(outcome.levels), squash=False, then=unchanged, channels="rgb")
    with torch.inference_mode():
        assert network(plain[None]).argmax() == 0


def test_a_mask_is_kept(network: nn.Module, cat: Levels) -> None:
    mask = np.zeros_like(cat)
    mask[:, 40:] = 255
    outcome = advimg.attack(cat, 0, model=wrapped(network, preprocess=filtered), eps=12, mask=mask)
    assert outcome.record.fooled
    assert seen(network, outcome.levels).argmax() == 0
    assert np.array_equal(outcome.levels[:, :40], cat[:, :40])


def test_it_also_survives_a_change_of_the_file(network: nn.Module, cat: Levels) -> None:
    classifier = wrapped(network, preprocess=filtered)
    outcome = advimg.attack(cat, 0, model=classifier, settings=advimg.Settings(survive="jpeg:75", eps=12))
    assert outcome.record.fooled
    after = as_jpeg(Image.fromarray(outcome.levels))
    for levels in (outcome.levels, np.asarray(after)):
        assert seen(network, levels).argmax() == 0
    (survival,) = outcome.record.survives
    assert survival.confidence == pytest.approx(float(seen(network, np.asarray(after))[0]), abs=1e-4)


class Switched:
    """Filters as described until it is told to turn pictures upside down."""

    turned = False

    def __call__(self, picture: Image.Image) -> Tensor:
        return filtered(picture.transpose(Image.Transpose.ROTATE_180) if self.turned else picture)


def test_verdicts_are_those_of_the_function(network: nn.Module, cat: Levels, tmp_path: Path) -> None:
    switched = Switched()
    classifier = wrapped(network, preprocess=switched)
    path = advimg.attack(cat, 0, model=classifier, eps=5).save(tmp_path / "x.png")
    checked = advimg.verify(path, cat, 0, eps=5, model=classifier)
    assert checked.holds
    switched.turned = True
    turned = advimg.verify(path, cat, 0, eps=5, model=classifier)
    assert not turned.holds
    expected = seen(network, np.ascontiguousarray(referee.pixels(path)[::-1, ::-1]).astype(np.uint8))
    assert turned.confidence == pytest.approx(float(expected[0]), abs=1e-4)


def test_a_function_that_fails_later_is_one_line(network: nn.Module, cat: Levels) -> None:
    def moody(picture: Image.Image) -> Tensor:
        return filtered(picture) if picture.size != (160, 120) else torch.full((3, SIZE, SIZE), torch.inf)

    classifier = wrapped(network, preprocess=moody)
    with pytest.raises(ClassifierError, match=r"function moody makes values that are not finite .* 160x120 pixels"):
        advimg.attack(cat, 0, model=classifier)


# The check of a description.


@pytest.mark.parametrize(
    ("function", "changes"),
    [
        (filtered, {}),
        (partial(filtered, squash=False), {"squash": False}),
        (partial(filtered, channels="rgb", mean=MEAN[::-1]), {"channels": "rgb", "mean": MEAN[::-1]}),
        (partial(filtered, resize=40), {"resize": 40}),
        (
            partial(filtered, then=lambda picture: as_jpeg(picture, quality=90, subsampling=0)),
            {"then": "jpeg:90:444"},
        ),
        (partial(filtered, then=unchanged), {"then": None}),
        # Encoded before the crop, which begins at a block.
        (
            partial(filtered, resize=256, crop=224, first=as_jpeg, then=unchanged),
            {"resize": 256, "crop": 224},
        ),
    ],
    ids=["itself", "crop", "RGB", "resize", "444", "no change", "encoded before the crop"],
)
def test_a_true_description_is_accepted(
    function: Callable[[Image.Image], Tensor], changes: dict[str, Any], network: nn.Module
) -> None:
    classifier = wrapped(network, preprocess=function, **changes)
    picture = Image.fromarray(random_photo(70, 50).levels)
    assert torch.equal(classifier.preprocessing.stock(picture), function(picture))


def test_a_resize_that_rounds_otherwise_is_the_same(network: nn.Module) -> None:
    """JPEG makes more than two levels of what rounding does."""

    def by_torchvision(picture: Image.Image) -> Tensor:
        levels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return filtered(functional.to_pil_image(functional.resize(levels, [128, 128], antialias=True)), **size)

    size: dict[str, Any] = {"resize": 128, "crop": 128}
    picture = Image.fromarray(random_photo(500, 333).levels)
    levels = torch.tensor(STD).view(3, 1, 1) * 255
    assert ((by_torchvision(picture) - filtered(picture, **size)).abs() * levels > 2.5).float().mean() > 0.1
    wrapped(network, preprocess=by_torchvision, **size)
    with pytest.raises(ClassifierError, match="it would agree with then='jpeg:75'"):
        wrapped(network, preprocess=by_torchvision, then="jpeg:85", **size)


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"channels": "rgb"}, "it would agree with channels='bgr'"),
        ({"then": None}, "it would agree with then='jpeg:75'"),
        ({"then": "jpeg:90"}, "it would agree with then='jpeg:75'"),
        ({"then": "jpeg:75:444"}, "it would agree with then='jpeg:75'"),
        ({"squash": False}, "it would agree with squash=True"),
        ({"interpolation": "bicubic"}, "it would agree with interpolation='bilinear'"),
        ({"resize": 40}, f"it would agree with resize={SIZE}"),
        ({"resize": 40, "squash": False}, f"it would agree with squash=True, resize={SIZE}"),
        ({"mean": MEAN[::-1]}, f"it would agree with mean={MEAN}, std={STD}"),
        ({"std": (0.25, 0.25, 0.25)}, f"it would agree with mean={MEAN}, std={STD}"),
        ({"channels": "rgb", "mean": MEAN[::-1]}, f"it would agree with channels='bgr', mean={MEAN}, std={STD}"),
        ({"channels": "rgb", "squash": False, "resize": 40}, "look at then, resize, squash and interpolation"),
        ({"crop": 24}, r"tensor \[3, 32, 32\] of a picture of \d+x\d+ pixels; \[3, 24, 24\] was expected, as crop is"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_description_is_refused_with_advice(changes: dict[str, Any], advice: str, network: nn.Module) -> None:
    escaped = advice if "\\" in advice else advice.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ClassifierError, match=f"the preprocessing function filtered .*{escaped}") as caught:
        wrapped(network, preprocess=filtered, **changes)
    assert_one_line(caught.value)


def test_a_description_that_leaves_the_jpeg_out_or_in_is_told_so(network: nn.Module) -> None:
    with pytest.raises(ClassifierError, match="it would agree with then=None"):
        wrapped(network, preprocess=partial(filtered, then=unchanged))


def _fails(picture: Image.Image) -> Tensor:
    raise ValueError(f"no table\nfor {picture.size}")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_fails, r"function _fails fails on a picture of 640x480 pixels: ValueError: no table"),
        (
            lambda _: torch.zeros(1, 3, SIZE, SIZE),
            r"tensor \[1, 3, 32, 32\] .* \[3, 32, 32\] was expected",
        ),
        (lambda picture: filtered(picture).permute(1, 2, 0), r"makes a tensor \[32, 32, 3\]"),
        (lambda picture: filtered(picture).numpy(), "makes a ndarray of a picture .* a tensor was expected"),
        (lambda picture: filtered(picture).to(torch.uint8), "makes a tensor of uint8 .* floats were expected"),
        (lambda picture: filtered(picture) / 0, r"makes values that are not finite \(NaN\)"),
        (lambda picture: filtered(picture) + 0.001 * torch.rand(1), "<lambda> depends on chance"),
        (lambda _: torch.zeros(3, SIZE, SIZE), "look at then, resize"),
    ],
    ids=["raises", "batch", "channels last", "numpy", "integers", "NaN", "chance", "constant"],
)
def test_a_function_that_is_no_preprocessing_is_one_line(
    function: Callable[[Image.Image], Tensor], message: str, network: nn.Module
) -> None:
    with pytest.raises(ClassifierError, match=message) as caught:
        wrapped(network, preprocess=function)
    assert_one_line(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_function_may_return_the_same_memory_and_any_floats(dtype: torch.dtype, network: nn.Module) -> None:
    """And what the caller has set makes no difference to it."""
    memory = torch.zeros(3, SIZE, SIZE, dtype=dtype, requires_grad=True)

    def reusing(picture: Image.Image) -> Tensor:
        assert torch.tensor(1.0).dtype == torch.float32
        memory.data.copy_(filtered(picture))
        return memory

    torch.set_default_dtype(torch.float64)
    try:
        classifier = wrapped(network, preprocess=reusing)
        given = classifier.preprocessing.stock(Image.fromarray(random_photo(40, 30).levels))
    finally:
        torch.set_default_dtype(torch.float32)
    assert given.dtype == torch.float32
    assert not given.requires_grad
    assert torch.equal(given, filtered(Image.fromarray(random_photo(40, 30).levels)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"then": "jpeg:50-95"}, "must have no ranges"),
        ({"then": "noise:4"}, "must have no ranges"),
        ({"then": "jpeg:75,jpeg:50"}, "must be one change, such as jpeg:75, not 2"),
        ({"then": "web"}, "must be one change"),
        ({"then": "resize:0.5"}, "makes 16x16 pixels of it; it must keep its 32x32"),
        ({"then": "gif"}, "cannot be read: unknown change 'gif'"),
        ({"then": ""}, "cannot be read: there is an empty change"),
        ({"channels": "BGR"}, "unknown channels 'BGR'; use one of rgb, bgr"),
    ],
    ids=str,
)
def test_what_cannot_be_described_is_one_line(changes: dict[str, Any], message: str, network: nn.Module) -> None:
    with pytest.raises(ClassifierError, match=message) as caught:
        wrapped(network, **changes)
    assert_one_line(caught.value)


# The forms.


@pytest.mark.parametrize("size", [(97, 131), (131, 97), (SIZE, SIZE), (20, 500)])
@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_the_stock_form_of_a_description_is_pil_s(
    size: tuple[int, int], squash: bool, channels: str, network: nn.Module
) -> None:
    picture = Image.fromarray(random_photo(*size).levels)
    stock = wrapped(network, squash=squash, channels=channels).preprocessing.stock(picture)
    torch.testing.assert_close(stock, filtered(picture, squash=squash, channels=channels))


def test_a_chain_may_change_the_size_on_its_way(network: nn.Module) -> None:
    picture = Image.fromarray(random_photo(97, 131).levels)

    def halved(crop: Image.Image) -> Image.Image:
        half = crop.resize((16, 16), Image.Resampling.BICUBIC)
        return as_jpeg(half, quality=60).resize((32, 32), Image.Resampling.BICUBIC)

    stock = wrapped(network, then="resize:0.5+jpeg:60+resize:2").preprocessing.stock(picture)
    torch.testing.assert_close(stock, filtered(picture, then=halved))


def test_the_networks_input_is_what_the_stock_form_gives(network: nn.Module, cat: Levels) -> None:
    shown = wrapped(network).preprocessing
    resize_crop = shown.resize_crop(160, 120)
    way = Way(resize_crop, resize_crop.window)
    given = shown.normalise(way.forward(torch.from_numpy(cat.copy()).permute(2, 0, 1)[:, *resize_crop.window].float()))
    torch.testing.assert_close(given, filtered(Image.fromarray(cat)))


def test_passes_that_share_a_resize_keep_their_gradients_apart() -> None:
    shown = wrapped(nn.Identity(), then="jpeg:30").preprocessing
    resize_crop = shown.resize_crop(48, 40)
    candidates = [
        torch.from_numpy(random_photo(48, 40, seed).levels.copy()).permute(2, 0, 1).float() for seed in (0, 1)
    ]
    gradient = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    alone, together = [], [Way(resize_crop, resize_crop.window) for _ in candidates]
    for candidate in candidates:
        way = Way(resize_crop, resize_crop.window)
        way.forward(candidate)
        alone.append(way.backward(gradient, out=torch.empty_like(candidate)))
    for way, candidate in zip(together, candidates, strict=True):
        way.forward(candidate)
    for way, expected in zip(together, alone, strict=True):
        assert torch.equal(way.backward(gradient, out=torch.empty_like(expected)), expected)
    assert not torch.allclose(alone[0], alone[1])
    straight = wrapped(nn.Identity(), then=None).preprocessing.resize_crop(48, 40)
    assert not torch.allclose(alone[0], straight.backward(gradient, out=torch.empty_like(alone[0])))


def test_one_changed_picture_goes_through_several_preprocessings(cat: Levels) -> None:
    change, picture = parse_changes("mirror")[0], Image.fromarray(cat)
    preprocessings = [wrapped(nn.Identity(), then=then).preprocessing for then in ("jpeg:30", "blur:2", None)]
    together, cpu = ChangedPath(change, picture, torch.device("cpu")), torch.device("cpu")
    gradient = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    inputs = [together.forward(each) for each in preprocessings]
    for each, given in zip(preprocessings, inputs, strict=True):
        alone = ChangedPath(change, picture, cpu)
        assert torch.equal(alone.forward(each), given)
        assert torch.equal(alone.backward(gradient, each), together.backward(gradient, each))
    mirrored = filtered(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), then=partial(as_jpeg, quality=30))
    torch.testing.assert_close(preprocessings[0].normalise(inputs[0]), mirrored)


def test_the_gradient_of_bgr_reaches_the_channel_that_the_network_reads() -> None:
    linear = nn.Linear(3 * SIZE * SIZE, 4)
    with torch.no_grad():
        linear.weight.view(4, 3, -1)[:, 1:] = 0  # it reads the first of its channels alone: blue
    classifier = wrapped(nn.Sequential(nn.Flatten(), linear))
    levels = torch.from_numpy(random_photo(SIZE, SIZE).levels.copy()).permute(2, 0, 1)[None].float().requires_grad_()
    logits = GradientNetwork(classifier, "fp32").logits(levels)
    (gradient,) = torch.autograd.grad(logits[0, 0], levels)
    assert not gradient[0, :2].any()
    torch.testing.assert_close(gradient[0, 2].flatten(), linear.weight[0, : SIZE * SIZE] / (255 * STD[0]))


# The record.


def test_a_plain_preprocessing_has_no_new_keys() -> None:
    view = linear_classifier().preprocessing.to_dict()
    assert view == {
        "resize": 8,
        "crop": 8,
        "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "squash": False,
    }
    assert list(view) == ["resize", "crop", "interpolation", "mean", "std", "squash"]


def test_the_record_says_what_is_not_plain(network: nn.Module, cat: Levels, tmp_path: Path) -> None:
    outcome = advimg.attack(cat, 0, model=wrapped(network, then=" JPEG:75:420 ", preprocess=filtered), eps=5)
    told = {"then": "jpeg:75", "channels": "bgr", "preprocess": "filtered", "squash": True}
    assert told.items() <= outcome.record.view.items()
    record = read_chunk(read_photo(outcome.save(tmp_path / "x.png")).chunk)
    assert record is not None
    assert record.view == outcome.record.view


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (partial(partial(filtered, squash=True), crop=SIZE), "filtered"),
        (Switched(), "Switched"),
        (lambda picture: filtered(picture), "<lambda>"),
    ],
    ids=["partial", "object", "lambda"],
)
def test_every_function_has_a_name(function: Callable[[Image.Image], Tensor], name: str, network: nn.Module) -> None:
    assert wrapped(network, preprocess=function).preprocessing.to_dict()["preprocess"] == name


def test_a_callable_without_a_hash_will_do(network: nn.Module, cat: Levels) -> None:
    class Unhashable(Switched):
        __hash__ = None  # type: ignore[assignment]

    classifier = wrapped(network, preprocess=Unhashable())
    outcome = advimg.attack(cat, 0, model=classifier, eps=12, survive="mirror")
    assert outcome.record.fooled


def test_results_of_another_preprocessing_are_not_taken_for_its_own(
    network: nn.Module, cat: Levels, tmp_path: Path
) -> None:
    Image.fromarray(cat).save(tmp_path / "cat.png")
    batch = partial(advimg.batch, tmp_path / "cat.png", 0, out_dir=tmp_path / "out", eps=5)
    assert batch(model=wrapped(network, preprocess=filtered)).verified == 1
    ended: list[dict[str, Any]] = []
    assert batch(model=wrapped(network, preprocess=filtered), ended=ended.append).verified == 1
    assert not ended
    for other in (wrapped(network), wrapped(network, then="jpeg:70"), wrapped(network, channels="rgb")):
        with pytest.raises(AdvimgError):
            batch(model=other)
