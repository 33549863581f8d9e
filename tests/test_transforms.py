"""Transforms: the real change against PIL and numpy themselves, the gradient's way back against real differences."""

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.filters
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from advimg.changes import parse_changes
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.gradient.network import GradientNetwork
from advimg.engine.criterion import Criterion
from advimg.engine.engine import Engine
from advimg.engine.forward import forward
from advimg.engine.job import Job, Result
from advimg.engine.paths import ChangedPath
from advimg.errors import UsageError
from advimg.images.photo import Levels, Photo
from advimg.settings import MAX_PIXELS, Settings
from advimg.transforms.base import (
    Transform,
    apply_all,
    changed_picture,
    check_size,
    picture_of,
    planes,
    pull_all_back,
    transforms_of,
)
from advimg.transforms.resampling import resample_axis
from tests.conftest import encoded, linear_classifier, random_photo, run_all, sample, weight_of

_CPU = torch.device("cpu")
_Array = npt.NDArray[np.float64]


def change(text: str) -> tuple[Transform, ...]:
    """Return the transforms of one change without ranges."""
    (parsed,) = parse_changes(text)
    return transforms_of(parsed)


def transform(text: str) -> Transform:
    (only,) = change(text)
    return only


def cat(width: int, height: int) -> Image.Image:
    """Return a part of a photo."""
    with Image.open(sample("chelsea.png")) as image:
        return image.convert("RGB").crop((100, 20, 100 + width, 20 + height))


def noise(width: int, height: int, low: int = 0, high: int = 255, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(low, high, (height, width, 3), dtype=np.uint8, endpoint=True)
    return Image.fromarray(levels)


def pixels(picture: Image.Image) -> _Array:
    return np.asarray(picture).astype(np.float64)


def decoded(data: bytes) -> _Array:
    with Image.open(BytesIO(data)) as opened:
        return pixels(opened.convert("RGB"))


# What becomes of a picture.


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (17, 33), (64, 48)])
@pytest.mark.parametrize(
    ("text", "quality", "subsampling"),
    [("jpeg", 75, 2), ("jpeg:1", 1, 2), ("jpeg:30:444", 30, 0), ("jpeg:100", 100, 2)],
)
def test_jpeg_is_saved_and_read(text: str, quality: int, subsampling: int, size: tuple[int, int]) -> None:
    picture = noise(*size)
    real = decoded(encoded(picture, "JPEG", quality=quality, subsampling=subsampling))
    assert np.array_equal(pixels(transform(text).apply(picture)), real)
    other = decoded(encoded(picture, "JPEG", quality=quality, subsampling=2 - subsampling))
    assert size == (1, 1) or not np.array_equal(other, real)


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (17, 33), (64, 48)])
@pytest.mark.parametrize("quality", [0, 50, 80, 100])
def test_webp_is_saved_and_read(quality: int, size: tuple[int, int]) -> None:
    picture = noise(*size)
    changed = transform(f"webp:{quality}").apply(picture)
    assert np.array_equal(pixels(changed), decoded(encoded(picture, "WEBP", quality=quality)))
    assert changed.mode == "RGB"
    assert not np.array_equal(pixels(changed), decoded(encoded(picture, "WEBP", lossless=True)))


_FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@pytest.mark.parametrize("name", _FILTERS)
@pytest.mark.parametrize(("factor", "resized"), [(0.5, (16, 12)), (0.1, (3, 2)), (1.0, (31, 24)), (1.7, (53, 41))])
def test_resize_is_pil_s(name: str, factor: float, resized: tuple[int, int]) -> None:
    picture = noise(31, 24)
    changed = transform(f"resize:{factor}:{name}").apply(picture)
    assert changed.size == resized
    assert np.array_equal(pixels(changed), pixels(picture.resize(resized, _FILTERS[name])))
    assert transform(f"resize:{factor}:{name}").size(31, 24) == resized


def test_resize_is_bicubic_unless_told_otherwise() -> None:
    picture = noise(30, 24)
    changed = pixels(transform("resize").apply(picture))
    assert np.array_equal(changed, pixels(picture.resize((15, 12), Image.Resampling.BICUBIC)))
    assert not np.array_equal(changed, pixels(picture.resize((15, 12), Image.Resampling.BILINEAR)))


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("crop:0.25:0:0", slice(0, 15), slice(0, 30)),
        ("crop:0.25:1:0", slice(0, 15), slice(10, 40)),
        ("crop:0.25:0:1", slice(5, 20), slice(0, 30)),
        ("crop:0.25:1:1", slice(5, 20), slice(10, 40)),
        ("crop:0.25", slice(2, 17), slice(5, 35)),
        ("crop:0.25:0.2:0.8", slice(4, 19), slice(2, 32)),
        ("crop:0.01", slice(0, 20), slice(0, 40)),
        ("crop:0.96", slice(9, 10), slice(19, 21)),
    ],
)
def test_crop_keeps_a_part(text: str, rows: slice, columns: slice) -> None:
    picture = noise(40, 20)
    assert np.array_equal(pixels(transform(text).apply(picture)), pixels(picture)[rows, columns])


def test_mirror_turns_left_to_right() -> None:
    assert np.array_equal(pixels(transform("mirror").apply(noise(7, 5))), pixels(noise(7, 5))[:, ::-1])


@pytest.mark.parametrize("factor", [0.3, 0.5, 1.0, 1.2, 3.0, 10.0])
def test_brightness_multiplies_and_clips(factor: float) -> None:
    picture = noise(16, 16)
    changed = pixels(transform(f"brightness:{factor}").apply(picture))
    assert np.array_equal(changed, pixels(ImageEnhance.Brightness(picture).enhance(factor)))
    assert np.abs(changed - (pixels(picture) * factor).clip(0, 255)).max() <= 1


@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0, 4.0])
def test_blur_is_nearly_a_gaussian(radius: float) -> None:
    """PIL's is three box filters; its borders are other ones."""
    picture = cat(100, 70)
    changed = pixels(transform(f"blur:{radius}").apply(picture))
    assert np.array_equal(changed, pixels(picture.filter(ImageFilter.GaussianBlur(radius))))
    blurred: Any = skimage.filters.gaussian
    gaussian: _Array = blurred(pixels(picture), radius, mode="nearest", channel_axis=2)
    distance = np.abs(changed - gaussian).mean()
    assert distance < 1
    assert distance < np.abs(changed - pixels(picture)).mean() / 3


def test_noise_has_the_statistics_of_noise() -> None:
    grey = Image.new("RGB", (120, 100), (128, 128, 128))
    for levels in (4, 20):
        added = pixels(transform(f"noise:{levels}:1").apply(grey)) - 128
        assert abs(added.mean()) < levels / 40
        assert added.std() == pytest.approx(levels, rel=0.03)
        # Half a level more, for it is rounded.
        within = math.erf((levels + 0.5) / levels / math.sqrt(2))
        assert (np.abs(added) <= levels).mean() == pytest.approx(within, abs=0.02)
        # Of each level its own: neighbours and channels go their own ways.
        flat = added.reshape(-1, 3)
        together = np.corrcoef(np.concatenate([flat[:-1], flat[1:]], axis=1).T)
        assert np.abs(together - np.eye(6)).max() < 0.04


def test_noise_is_decided_by_its_seed() -> None:
    picture = noise(9, 7)
    drawn = np.random.default_rng(5).standard_normal((7, 9, 3), dtype=np.float32)
    expected = np.rint(pixels(picture) + 30 * drawn.astype(np.float64)).clip(0, 255)
    changed = pixels(transform("noise:30:5").apply(picture))
    assert np.array_equal(changed, expected)
    assert changed.min() == 0
    assert changed.max() == 255
    assert np.array_equal(changed, pixels(transform("noise:30:5").apply(picture)))
    assert not np.array_equal(changed, pixels(transform("noise:30:6").apply(picture)))


def test_a_chain_is_one_after_the_other() -> None:
    picture = noise(40, 30)
    pictures = apply_all(change("crop:0.5:0:0+resize:2:box+jpeg:60"), picture)
    half = picture.crop((0, 0, 20, 15))
    doubled = half.resize((40, 30), Image.Resampling.BOX)
    last = decoded(encoded(doubled, "JPEG", quality=60, subsampling=2))
    for got, expected in zip(pictures, [picture, half, doubled], strict=False):
        assert np.array_equal(pixels(got), pixels(expected))
    assert len(pictures) == 4
    assert np.array_equal(pixels(pictures[-1]), last)
    (whole,) = parse_changes("crop:0.5:0:0+resize:2:box+jpeg:60")
    assert np.array_equal(pixels(changed_picture(whole, picture)), last)
    assert [each.size for each in apply_all((), picture)] == [(40, 30)]


def test_planes_and_pictures_are_each_other_s_inverse() -> None:
    picture = noise(9, 7)
    assert torch.equal(planes(picture, _CPU), torch.from_numpy(pixels(picture).transpose(2, 0, 1).copy()).float())
    assert np.array_equal(pixels(picture_of(planes(picture, _CPU))), pixels(picture))


# Where nothing is left, or too much.


def refused(text: str, width: int, height: int) -> str:
    (parsed,) = parse_changes(text)
    with pytest.raises(UsageError) as raised:
        check_size(parsed, width, height, source="cat.png")
    message = str(raised.value)
    assert "cat.png" in message
    assert f"{width}x{height}" in message
    assert len(message.splitlines()) == 1
    return message


def fits(text: str, width: int, height: int) -> None:
    (parsed,) = parse_changes(text)
    check_size(parsed, width, height, source="cat.png")


def test_a_change_that_leaves_nothing_is_refused() -> None:
    assert refused("resize:0.001", 400, 300).startswith("resize:0.001 leaves less than a pixel")
    assert "less than a pixel" in refused("resize:0.001", 4000, 300)
    assert "less than a pixel" in refused("crop:0.9", 40, 5)
    assert refused("resize:0.1+resize:0.1+mirror", 40, 40).startswith("resize:0.1+resize:0.1+mirror leaves")
    fits("resize:0.001", 600, 501)
    fits("crop:0.9", 40, 6)
    fits("resize:0.1+resize:8", 40, 40)


def test_a_change_that_makes_too_much_is_refused() -> None:
    side = int(MAX_PIXELS**0.5)
    assert refused("resize:8", side, side).startswith(f"resize:8 makes {8 * side}x{8 * side} pixels")
    assert "too many" in refused("resize:8+resize:0.1", side // 7, side // 7)
    fits("resize:8", side // 8, side // 8)
    fits("resize:0.1+resize:8", side, side)


@pytest.mark.parametrize(("kind", "text", "most"), [("WEBP", "webp:80", 16_383), ("JPEG", "jpeg:75", 65_500)])
def test_sides_that_a_format_does_not_hold_are_refused(kind: str, text: str, most: int) -> None:
    for size in ((most, 1), (1, most)):
        fits(text, *size)
        transform(text).apply(Image.new("RGB", size))
    for size in ((most + 1, 1), (1, most + 1)):
        assert text in refused(text, *size)
        with pytest.raises((OSError, ValueError)):
            encoded(Image.new("RGB", size), kind)
    fits(f"resize:0.5+{text}", most + 1, 4)
    refused(f"resize:2+{text}", most, 4)


def test_the_engine_refuses_them_in_one_line() -> None:
    job = Job(photo=random_photo(40, 30), target=1, settings=Settings(survive="mirror,resize:0.001"))
    with pytest.raises(UsageError, match=r"resize:0\.001 leaves less than a pixel of noise0\.png \(40x30\)"):
        Engine(linear_classifier(size=8)).attack(job)


# The gradient's way back.

_GREY, _STEP = 128, 90
"""A level and how far it is moved, up and down: so far that rounding hardly matters, and nothing is clipped."""


def slopes(transforms: tuple[Transform, ...], width: int, height: int) -> _Array:
    """Return the slope of each pixel of a changed grey picture by each pixel of the picture, by real differences."""
    columns = []
    for pixel in range(width * height):
        moved = []
        for step in (_STEP, -_STEP):
            levels = np.full((height * width, 3), _GREY, dtype=np.uint8)
            levels[pixel] = _GREY + step
            moved.append(pixels(apply_all(transforms, Image.fromarray(levels.reshape(height, width, 3)))[-1])[..., 0])
        columns.append((moved[0] - moved[1]).ravel() / (2 * _STEP))
    return np.stack(columns, axis=1)


def slopes_back(transforms: tuple[Transform, ...], width: int, height: int) -> _Array:
    """Return the same slopes by the gradient's way back, one of the changed picture's pixels after the other."""
    pictures = apply_all(transforms, Image.new("RGB", (width, height), (_GREY,) * 3))
    wide, high = pictures[-1].size
    rows = []
    for pixel in range(wide * high):
        gradient = torch.zeros(3, high * wide)
        # Another weight in each channel: they must not mix.
        gradient[:, pixel] = torch.tensor([1.0, -2.0, 0.5])
        back = pull_all_back(transforms, gradient.view(3, high, wide), pictures)
        assert back.shape == (3, height, width)
        assert torch.allclose(back[1], -2 * back[0], atol=1e-5)
        assert torch.allclose(back[2], back[0] / 2, atol=1e-5)
        rows.append(back[0].flatten().double().numpy())
    return np.stack(rows)


@pytest.mark.parametrize(("width", "height"), [(9, 7), (1, 1), (3, 12)])
@pytest.mark.parametrize("name", _FILTERS)
@pytest.mark.parametrize("factor", [0.34, 0.5, 1.0, 1.7])
def test_the_gradient_of_a_resize(factor: float, name: str, width: int, height: int) -> None:
    """A difference is rounded once for each axis, by half a level of 180."""
    resize = (transform(f"resize:{factor}:{name}"),)
    if min(resize[0].size(width, height)) < 1:
        factor = 2.0
        resize = (transform(f"resize:{factor}:{name}"),)
    real = slopes(resize, width, height)
    assert np.abs(slopes_back(resize, width, height) - real).max() < 0.016
    assert real.max() > 0.1


@pytest.mark.parametrize(("size", "resized"), [(4000, 12_000), (12_000, 4000), (12_000, 12_000)])
def test_no_large_matrix_is_whole_on_a_gpu(size: int, resized: int) -> None:
    axis = resample_axis(-1, size, resized, slice(0, resized), "lanczos", "meta")
    weights = [block.weights.numel() for block in axis.blocks]
    assert max(weights) < 1.2 * (1 << 20)
    assert sum(weights) * 4 < 80_000_000
    assert len(weights) <= 20
    crop = resample_axis(-1, 4000, 256, slice(16, 240), "bilinear", "meta")
    assert len(crop.blocks) == 1


@pytest.mark.parametrize(
    "text", ["crop:0.4:0:0", "crop:0.4:1:0", "crop:0.4:0:1", "crop:0.4:1:1", "crop:0.4", "crop:0.4:0.3:0.6", "mirror"]
)
def test_the_gradient_of_a_crop_and_a_mirror_is_exact(text: str) -> None:
    real = slopes(change(text), 7, 5)
    assert np.array_equal(slopes_back(change(text), 7, 5), real)
    assert set(np.unique(real)) == {0, 1}


@pytest.mark.parametrize("text", ["crop:0.4:0:1+resize:2:bilinear+mirror", "mirror+crop:0.4:0:1+resize:0.5:box"])
def test_the_gradient_of_a_chain_goes_back_through_each(text: str) -> None:
    assert np.abs(slopes_back(change(text), 8, 6) - slopes(change(text), 8, 6)).max() < 0.016
    backwards = tuple(reversed(change(text)))
    try:
        other = slopes(backwards, 8, 6)
    except ValueError:
        return
    assert other.shape != slopes(change(text), 8, 6).shape or np.abs(slopes(change(text), 8, 6) - other).max() > 0.1


def away(model: _Array, real: _Array) -> float:
    """Return how far a model is from what is real, as a share of it."""
    return float(np.linalg.norm(model - real) / np.linalg.norm(real))


@pytest.mark.parametrize(
    ("radius", "inside", "beside"),
    [(0.3, 0.25, 0.2), (0.5, 0.05, 0.05), (1.0, 0.06, 0.15), (2.0, 0.1, 0.4), (3.0, 0.1, 0.45)],
)
def test_the_gradient_of_a_blur(radius: float, inside: float, beside: float) -> None:
    """That of a Gaussian is near that of PIL's three boxes, but less so near a border, where each box ends anew."""
    width, height = 23, 21
    blur = change(f"blur:{radius}")
    back = slopes_back(blur, width, height)
    assert back.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert back.min() >= 0
    draw = np.random.default_rng(0)
    real, model, straight = (np.empty((10, height, width)) for _ in range(3))
    for number in range(10):
        # Noise of a large amplitude: what is left of it is still large beside the rounding.
        straight[number] = draw.choice([-_STEP, _STEP], (height, width))
        up, down = (
            pixels(blur[0].apply(Image.fromarray(np.repeat((_GREY + step)[..., None], 3, 2).astype(np.uint8))))[..., 0]
            for step in (straight[number], -straight[number])
        )
        real[number] = (up - down) / 2
        model[number] = (back @ straight[number].ravel()).reshape(height, width)
    reach = math.ceil(2 * radius)
    inner = np.zeros((height, width), dtype=bool)
    inner[reach : height - reach, reach : width - reach] = True
    for part, most in ((inner, inside), (~inner, beside)):
        assert away(model[:, part], real[:, part]) < most
        assert away(model[:, part], real[:, part]) < away(straight[:, part], real[:, part])


def differences(one: Transform, picture: Image.Image, step: int) -> Tensor:
    """Return the slope of each level of a changed picture by the same level of the picture, by real differences."""
    levels = pixels(picture)
    assert levels.min() >= step
    assert levels.max() <= 255 - step
    up, down = (one.apply(Image.fromarray((levels + way).astype(np.uint8))) for way in (step, -step))
    return (planes(up, _CPU) - planes(down, _CPU)) / (2 * step)


@pytest.mark.parametrize("factor", [0.3, 0.5, 1.0, 1.5, 2.0, 6.0])
def test_the_gradient_of_brightness_is_nothing_where_it_clips(factor: float) -> None:
    picture = noise(40, 30, 10, 245)
    gradient = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0)) + 1
    share = transform(f"brightness:{factor}").pull_back(gradient.clone(), picture) / gradient
    real = differences(transform(f"brightness:{factor}"), picture, 10)
    clipped, free = real == 0, (real - factor).abs() < 0.051
    assert not share[clipped].any()
    assert torch.allclose(share[free], torch.tensor(factor))
    assert bool(clipped.any()) == (factor > 1.1)
    assert (clipped | free).float().mean() > 0.7


def test_the_gradient_of_noise_is_nothing_where_it_clips() -> None:
    picture = noise(40, 30, 3, 252)
    gradient = torch.rand(3, 30, 40, generator=torch.Generator().manual_seed(0)) + 1
    back = transform("noise:40:3").pull_back(gradient.clone(), picture)
    real = differences(transform("noise:40:3"), picture, 3)
    clipped, free = real == 0, real == 1
    assert torch.equal(back[free], gradient[free])
    assert not back[clipped].any()
    assert clipped.float().mean() > 0.05
    assert (clipped | free).float().mean() > 0.95


@pytest.mark.parametrize(
    "text",
    ["jpeg:75", "jpeg:40:444", "webp:80", "resize:0.6", "crop:0.3:0:1", "mirror", "brightness", "blur", "noise:4:1"],
)
def test_a_gradient_keeps_its_form_and_what_was_given(text: str) -> None:
    """A gradient that is given is not written into, and twice as much gives twice as much."""
    one, picture = transform(text), cat(37, 29)
    wide, high = one.apply(picture).size
    gradient = torch.randn(3, high, wide, generator=torch.Generator().manual_seed(0))
    given = gradient.clone()
    back = one.pull_back(given, picture)
    assert torch.equal(given, gradient)
    assert back.shape == (3, 29, 37)
    assert back.dtype == torch.float32
    assert back.isfinite().all()
    assert torch.allclose(one.pull_back(2 * given, picture), 2 * back, atol=1e-4)


# Through a codec.

_CODECS = ["jpeg:75", "jpeg:50", "jpeg:90", "jpeg:75:444", "webp:80", "webp:50", "webp:95"]


@pytest.mark.parametrize("text", [*_CODECS, "jpeg:1", "jpeg:100", "jpeg:100:444", "webp:0", "webp:100"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 9), (7, 9), (8, 8), (17, 33), (48, 32)])
def test_a_codec_has_a_gradient_for_every_size(text: str, size: tuple[int, int]) -> None:
    """None stops it altogether, not even at the least quality."""
    picture = cat(*size)
    for seed in range(3):
        gradient = torch.randn(3, *reversed(size), generator=torch.Generator().manual_seed(seed))
        back = transform(text).pull_back(gradient, picture)
        assert back.shape == gradient.shape
        assert back.isfinite().all()
        assert back.any()


# Of table K.1 of the JPEG standard (ITU-T T.81), which libjpeg has at quality 50: by row and column, that is by the
# frequency downwards and across.
_STEPS_50 = {(2, 7): 56, (7, 2): 95, (0, 6): 51, (5, 0): 24, (0, 1): 11}


@pytest.mark.parametrize(("frequency", "step"), _STEPS_50.items())
@pytest.mark.parametrize("share", [0.0, 0.25, 0.45, 0.6, 1.2])
def test_jpeg_s_slope_depends_on_the_share_of_the_quantisation_step(
    frequency: tuple[int, int], step: int, share: float
) -> None:
    """min(1, a + (1 - a) (u / 0.5) ** 2) with a = 0.25, for the coefficient itself and for no other."""
    down, across = (np.cos((np.arange(8) + 0.5) * np.pi / 8 * each) for each in frequency)
    wave = np.outer(down, across)
    wave /= np.linalg.norm(wave)
    # The coefficient of whole levels is not quite what was meant.
    levels = np.rint(_GREY + share * step * wave)
    held = float(((levels - 128) * wave).sum()) / step
    picture = Image.fromarray(np.repeat(levels[..., None], 3, 2).astype(np.uint8))
    gradient = torch.from_numpy(np.stack([wave] * 3)).float()
    # The sum over the channels is what the gradient of luma is: colour cancels out.
    back = transform("jpeg:50").pull_back(gradient, picture).double().numpy().sum(axis=0) / 3
    assert np.abs(back - min(1, 0.25 + 0.75 * (2 * held) ** 2) * wave).max() < 1e-5


def test_the_best_quality_lets_nearly_all_of_a_gradient_through() -> None:
    """Of noise, whose coefficients are far from zero: by steps of 1, nearly none is quantised away."""
    picture = noise(48, 40)
    gradient = torch.randn(3, 40, 48, generator=torch.Generator().manual_seed(0))
    for text, least, most in (("jpeg:100:444", 0.0, 0.15), ("jpeg:75:444", 0.2, 0.5), ("jpeg:100", 0.6, 0.9)):
        back = transform(text).pull_back(gradient, picture)
        assert least <= float((back - gradient).norm() / gradient.norm()) < most


def test_a_gradient_that_is_the_same_everywhere_passes_a_codec() -> None:
    """Brightness passes any quantisation, if it is not grey already; colour may not."""
    for text in _CODECS:
        back = transform(text).pull_back(torch.ones(3, 32, 48), Image.new("RGB", (48, 32), (60, 60, 60)))
        assert torch.allclose(back.sum(0), torch.full((32, 48), 3.0), atol=1e-4)


def _waves(size: int, period: int, amplitude: float, generator: torch.Generator) -> Tensor:
    """Draw a direction [3, size, size] of no longer waves than neighbours make (0), or of about this period."""
    if not period:
        drawn = torch.randn(3, size, size, generator=generator)
        drawn -= torch.nn.functional.avg_pool2d(drawn[None], 3, 1, 1, count_include_pad=False)[0]
    else:
        coarse = torch.randn(1, 3, size // period, size // period, generator=generator)
        drawn = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[0]
    return drawn * (amplitude / drawn.std())


class _Predictions:
    """What real changes make of moves of a photo, in the eyes of losses; and what is predicted of that.

    A loss has a gradient of its own, so for the move d of the picture x it changes by
    <g, (codec(x + d) - codec(x - d)) / 2>. The model predicts <pull_back(g), d>, and straight through it is <g, d>.
    """

    def __init__(self, text: str, period: int) -> None:
        size, codec = 96, transform(text)
        picture = cat(size, size)
        levels = planes(picture, _CPU)
        generator = torch.Generator().manual_seed(0)
        found = []
        for _ in range(24):
            move = _waves(size, period, 4, generator).round()
            up, down = (levels + move).clamp(0, 255), (levels - move).clamp(0, 255)
            move = (up - down) / 2
            real = (planes(codec.apply(picture_of(up)), _CPU) - planes(codec.apply(picture_of(down)), _CPU)) / 2
            for _ in range(4):
                # Attacks move along gradients, more or less.
                gradient = 0.3 * move / move.std() + _waves(size, period, 1, generator)
                back = codec.pull_back(gradient, picture)
                found.append([float(each.sum()) for each in (gradient * real, back * move, gradient * move)])
        self.real, self.model, self.straight = np.array(found).T

    def correlation(self, predicted: _Array) -> float:
        return float(np.corrcoef(predicted, self.real)[0, 1])


@pytest.mark.parametrize("text", _CODECS)
def test_the_model_of_a_codec_predicts_what_becomes_of_high_frequencies(text: str) -> None:
    """Straight through they would seem to make several times the difference that they do."""
    seen = _Predictions(text, 0)
    assert seen.correlation(seen.model) > max(0.2, seen.correlation(seen.straight) + 0.05)
    assert away(seen.straight, seen.real) > 1.5
    # Where colour is not halved its high frequencies are left more of than there is.
    assert away(seen.model, seen.real) < (0.3 if "444" in text else 0.12) * away(seen.straight, seen.real)


@pytest.mark.parametrize("text", _CODECS)
def test_the_model_of_a_codec_leaves_low_frequencies_as_they_are(text: str) -> None:
    seen = _Predictions(text, 8)
    assert seen.correlation(seen.model) > 0.75
    assert away(seen.model, seen.real) < 0.35


# In an attack.


@pytest.mark.parametrize("size", [(31, 24), (24, 33), (50, 50)])
def test_a_network_gets_what_the_official_preprocessing_gives_of_the_changed_picture(size: tuple[int, int]) -> None:
    classifier, picture = linear_classifier(classes=3, size=16), noise(*size)
    for text in ("mirror", "jpeg:30", "resize:0.5", "crop:0.2:0:1+webp:50", "resize:2+mirror"):
        (parsed,) = parse_changes(text)
        given = ChangedPath(parsed, picture, _CPU).forward(classifier.preprocessing)
        official = classifier.preprocessing.stock(changed_picture(parsed, picture))
        # A level, of a std of a half.
        assert float((classifier.preprocessing.normalise(given) - official).abs().max()) <= 2.1 / 255
        plain = classifier.preprocessing.stock(picture)
        assert float((classifier.preprocessing.normalise(given) - plain).abs().max()) > 8 / 255


@pytest.mark.parametrize("size", [(31, 24), (24, 33), (50, 50)])
def test_the_gradient_passes_the_preprocessing_and_a_change(size: tuple[int, int]) -> None:
    """The gradient of the mirrored photo is that of the photo, mirrored; of a part, it is that of the part."""
    classifier, picture = linear_classifier(classes=3, size=16), noise(*size)
    preprocessing = classifier.preprocessing
    network = GradientNetwork(classifier, "fp32")

    def carried(width: int, height: int) -> Tensor:
        """Return the gradient of a picture of this size, of the preprocessing alone; it is the same for all."""
        resize_crop = preprocessing.resize_crop(width, height)
        rows, columns = resize_crop.window
        whole = torch.zeros(3, height, width)
        part = whole[:, rows, columns]
        part.copy_(resize_crop.backward(slope, out=torch.empty_like(part)))
        return whole

    (mirror,), (crop,) = parse_changes("mirror"), parse_changes("crop:0.25:0:1")
    mirrored, cropped = (ChangedPath(each, picture, _CPU) for each in (mirror, crop))
    inputs = [each.forward(preprocessing) for each in (mirrored, cropped)]
    slope = forward(inputs[:1], network, [Criterion(1)]).gradient(["logit"], [1.0])[0]
    assert torch.allclose(slope.flatten(), -weight_of(classifier)[1] / (0.5 * 255), atol=1e-7)
    assert torch.allclose(mirrored.backward(slope, preprocessing), carried(*size).flip(-1), atol=1e-7)

    wide, high = transforms_of(crop)[0].size(*size)
    expected = torch.zeros(3, size[1], size[0])
    expected[:, size[1] - high :, :wide] = carried(wide, high)
    assert torch.allclose(cropped.backward(slope, preprocessing), expected, atol=1e-7)


def attacked(photo: Photo, *classifiers: Classifier, target: int = 2, **settings: object) -> Result:
    job = Job(photo=photo, target=target, settings=Settings(**settings))  # type: ignore[arg-type]
    return Engine(*classifiers, precision="fp32").attack(job)


def test_a_file_that_is_to_survive_a_mirror_holds_mirrored_too() -> None:
    classifier, other = (linear_classifier(classes=5, size=24, seed=seed, scale=0.1) for seed in (0, 1))
    photo = random_photo(40, 30)
    for classifiers in ((classifier,), (classifier, other)):
        for survive in (None, "mirror"):
            result = attacked(photo, *classifiers, eps=12, steps=60, survive=survive)
            assert result.fooled
            assert np.abs(result.levels.astype(int) - photo.levels).max() <= 12
            verdicts = [each.judge(result.levels) for each in classifiers]
            mirrored = [each.judge(np.ascontiguousarray(result.levels[:, ::-1])) for each in classifiers]
            assert all(verdict.top1 == 2 and verdict.confidence(2) >= 0.9 for verdict in verdicts)
            assert all(verdict.top1 == 2 for verdict in mirrored) == (survive is not None)
            if survive is not None:
                assert min(verdict.confidence(2) for verdict in mirrored) >= 0.9


def test_a_file_survives_more_changes_than_share_a_pass() -> None:
    """There are 12: of two sizes, each with four corners, the centre and what is drawn."""
    classifier, photo = linear_classifier(classes=5, size=24, scale=0.2), random_photo(40, 30)
    survive = "crop:0.1:0-1:0-1,crop:0.2:0-1:0-1"
    result = attacked(photo, classifier, eps=12, survive=survive)
    assert result.fooled
    picture = Image.fromarray(result.levels)
    least = []
    for wide, high in ((36, 27), (32, 24)):
        for left, top in ((0, 0), (40 - wide, 0), (0, 30 - high), (40 - wide, 30 - high)):
            box = (left, top, left + wide, top + high)
            assert classifier.judge(np.asarray(picture.crop(box))).confidence(2) >= 0.9
            least.append(classifier.judge(np.asarray(Image.fromarray(photo.levels).crop(box))).confidence(2))
    assert min(least) < 0.1
    (judgement,) = result.judgements
    assert len(judgement.survives) == 10
    plain = attacked(photo, classifier, eps=12).levels
    assert classifier.judge(np.ascontiguousarray(plain[:24, :32])).confidence(2) < 0.9


def test_photos_with_changes_get_the_same_bytes_alone_and_in_company() -> None:
    classifiers = [linear_classifier(classes=4, size=16, seed=seed, scale=0.05) for seed in (0, 1)]
    survived = (None, "mirror", "crop:0.05-0.2:0-1:0-1", "jpeg:60-90", "noise")
    jobs = [
        Job(photo=random_photo(20, 16, seed), target=seed % 4, settings=Settings(steps=12, survive=survive))
        for seed, survive in enumerate(survived)
    ]
    together = {result.job: result.levels.tobytes() for result in run_all(Engine(*classifiers, batch_size=6), jobs)}
    assert together == {job: Engine(*classifiers).attack(job).levels.tobytes() for job in jobs}


# A linear network's best answer is known: within ε of the photo, each level goes as far as it may in the direction of
# the sum of all views' slopes. Photo and crop have the same size, so the preprocessing leaves the photo as it is.

_SIDE, _EPS = 16, 4


def slope_of(classifier: Classifier, target: int) -> _Array:
    """Return the slope of the target's logit in the network's input, but for a factor, [height, width, 3]."""
    weight = weight_of(classifier)[target].double().numpy()
    slope: _Array = weight.reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
    return slope


def away_from_best(survive: str | None, slope: _Array, *classifiers: Classifier) -> _Array:
    """Return by how many levels plain steps of length ε end elsewhere than a slope says, where its sign is clear.

    No step is in vain, for no confidence is enough.
    """
    photo = random_photo(_SIDE, _SIDE)
    settings = {"eps": _EPS, "step_size": _EPS, "steps": 3, "momentum": 0, "loss": "logit", "refine": 0}
    result = attacked(photo, *classifiers, target=1, confidence=0.999999, survive=survive, **settings)
    assert 1 <= result.steps <= 3
    clear = np.abs(slope) > 1e-3 * np.abs(slope).mean()
    assert clear.mean() > 0.99
    best = (photo.levels + _EPS * np.sign(slope)).clip(0, 255)
    elsewhere: _Array = np.abs(result.levels - best)[clear]
    return elsewhere


def _mirrored(slope: _Array) -> _Array:
    return slope + slope[:, ::-1]


def _doubling() -> _Array:
    """Return the network's bilinear resize of a line of half the side.

    A doubled sample lies a quarter of the way to the next, and has nothing beyond the border.
    """
    places = (np.arange(_SIDE) + 0.5) / 2 - 0.5
    weights: _Array = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(_SIDE // 2)))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _halved(slope: _Array) -> _Array:
    """Add the slope after a box resize to half of each side."""
    both = _doubling() @ np.kron(np.eye(_SIDE // 2), [[0.5, 0.5]])
    changed: _Array = np.einsum("ai,bj,abc->ijc", both, both, slope)
    return slope + changed


def _quarter(slope: _Array) -> _Array:
    """Add the slope after the upper left quarter is cut out."""
    changed = np.zeros_like(slope)
    changed[: _SIDE // 2, : _SIDE // 2] = np.einsum("ai,bj,abc->ijc", _doubling(), _doubling(), slope)
    return slope + changed


_KNOWN: dict[str, Callable[[_Array], _Array]] = {
    "mirror": _mirrored,
    "resize:0.5:box": _halved,
    "crop:0.5:0:0": _quarter,
    "mirror,resize:0.5:box": lambda slope: _mirrored(slope) + _halved(slope) - slope,
}


@pytest.mark.parametrize("survive", _KNOWN)
def test_each_level_goes_where_all_views_together_want_it(survive: str) -> None:
    classifier = linear_classifier(size=_SIDE)
    slope = slope_of(classifier, 1)
    assert not away_from_best(survive, _KNOWN[survive](slope), classifier).any()
    # Without the change it would be another place, and the file itself alone goes there.
    assert (away_from_best(survive, slope, classifier) > 0).mean() > 0.05
    assert not away_from_best(None, slope, classifier).any()


@pytest.mark.parametrize("survive", _KNOWN)
def test_each_network_has_the_same_say_in_where_all_views_want_a_level(survive: str) -> None:
    """Of several networks each one's gradient is normalised, with all its views."""
    classifiers = [linear_classifier(size=_SIDE, seed=seed, scale=scale) for seed, scale in ((0, 0.01), (1, 0.03))]
    slopes_of_all = [_KNOWN[survive](slope_of(each, 1)) for each in classifiers]
    together = np.sum([slope / np.abs(slope).mean() for slope in slopes_of_all], axis=0)
    assert not away_from_best(survive, together, *classifiers).any()
    assert (away_from_best(survive, np.sum(slopes_of_all, axis=0), *classifiers) > 0).mean() > 0.05


# The verdicts after changes.


def judged_by_hand(levels: Levels) -> dict[str, _Array]:
    """Return what becomes of a file by changes, by PIL and numpy themselves."""
    picture = Image.fromarray(levels)
    half = picture.resize((20, 15), Image.Resampling.BICUBIC)
    drawn = np.random.default_rng(7).standard_normal(levels.shape, dtype=np.float32)
    return {
        "jpeg:60": decoded(encoded(picture, "JPEG", quality=60, subsampling=2)),
        "jpeg:90": decoded(encoded(picture, "JPEG", quality=90, subsampling=2)),
        "jpeg:75": decoded(encoded(picture, "JPEG", quality=75, subsampling=2)),
        "mirror": pixels(picture)[:, ::-1],
        "resize:0.5+jpeg:50:444": decoded(encoded(half, "JPEG", quality=50, subsampling=0)),
        "crop:0.25:0:1": pixels(picture)[8:, :30],
        "webp:70": decoded(encoded(picture, "WEBP", quality=70)),
        "noise:6:7": np.rint(pixels(picture) + 6 * drawn.astype(np.float64)).clip(0, 255),
    }


_BY_HAND = "jpeg:60-90,mirror,resize+jpeg:50:444,crop:.25:0:1,webp:70,noise:6:7"


@pytest.mark.parametrize("eps", [2, 16])
@pytest.mark.parametrize("target", [2, "untargeted"])
def test_the_verdicts_after_changes_are_those_on_the_changed_file(target: int | str, eps: int) -> None:
    """In the order in which they were given; whether they are what is wanted, or not."""
    classifiers = [linear_classifier(classes=5, size=24, seed=seed, scale=0.05) for seed in (0, 1)]
    job = Job(photo=random_photo(40, 30), target=target, settings=Settings(eps=eps, steps=20, survive=_BY_HAND))
    result = Engine(*classifiers).attack(job)
    expected = judged_by_hand(result.levels)
    held = []
    for classifier, judgement in zip(classifiers, result.judgements, strict=True):
        assert [each.change for each in judgement.survives] == list(expected)
        for each, changed in zip(judgement.survives, expected.values(), strict=True):
            verdict = classifier.judge(np.ascontiguousarray(changed).astype(np.uint8))
            if target == "untargeted":
                first = judgement.before.top1
                fooled, confidence = verdict.top1 != first, 1 - verdict.confidence(first)
            else:
                fooled, confidence = verdict.top1 == target, verdict.confidence(2)
            assert each.fooled == fooled
            assert each.seen.index == verdict.top1
            assert each.seen.confidence == pytest.approx(verdict.confidence(verdict.top1), abs=1e-6)
            assert each.confidence == pytest.approx(confidence, abs=1e-6)
            held.append(fooled)
        met = judgement.after.top1 != judgement.before.top1 if target == "untargeted" else judgement.after.top1 == 2
        assert judgement.fooled == (met and all(each.fooled for each in judgement.survives))
    assert all(held) == result.fooled
    assert result.fooled == (eps == 16)


def test_without_changes_there_are_no_verdicts_after_them() -> None:
    assert attacked(random_photo(16, 16), linear_classifier(classes=3, size=16), eps=4).judgements[0].survives == ()
