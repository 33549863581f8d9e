"""The preprocessing: its stock form against torchvision, its differentiable form against PIL."""

from dataclasses import replace
from math import inf, nan
from typing import get_args

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from advimg.classifiers.preprocessing import Corner, Preprocessing
from advimg.errors import ClassifierError, PhotoError
from advimg.transforms import resampling
from advimg.transforms.resampling import Interpolation, Library
from tests.conftest import random_photo

_ALL_WEIGHTS = [
    weights
    for name in torchvision.models.list_models(module=torchvision.models)
    for weights in torchvision.models.get_model_weights(name)
]


def preprocessing(resize: int = 64, crop: int = 56, interpolation: Interpolation = "bilinear") -> Preprocessing:
    return Preprocessing(
        resize=resize, crop=crop, interpolation=interpolation, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)
    )


def window_of(levels: np.ndarray, window: tuple[slice, slice]) -> torch.Tensor:
    return torch.from_numpy(levels[window].copy()).permute(2, 0, 1).float()


@pytest.mark.parametrize("weights", _ALL_WEIGHTS, ids=str)
def test_stock_is_torchvision_s_own_preprocessing(weights: torchvision.models.Weights) -> None:
    preset = weights.transforms()
    for size in ((97, 131), (300, 211)):
        picture = Image.fromarray(random_photo(*size).levels)
        assert torch.equal(Preprocessing.from_preset(preset).stock(picture), preset(picture))


@pytest.mark.parametrize("weights", _ALL_WEIGHTS, ids=str)
def test_resize_crop_agrees_with_torchvision_s_own_preprocessing(weights: torchvision.models.Weights) -> None:
    preset = weights.transforms()
    shown = Preprocessing.from_preset(preset)
    levels = random_photo(211, 297).levels
    resize_crop = shown.resize_crop(211, 297)
    official = preset(Image.fromarray(levels))
    seen = shown.normalise(resize_crop.forward(window_of(levels, resize_crop.window)))
    level = 1 / (255 * torch.tensor(shown.std).view(3, 1, 1))
    assert ((seen - official).abs() <= 1.001 * level).all()


_sizes = st.integers(1, 400)


@given(
    _sizes, _sizes, st.integers(1, 80), st.integers(0, 30), st.sampled_from(["bilinear", "bicubic"]), st.integers(0, 9)
)
@example(48, 487, 43, 0, "bicubic", 0)  # Pillow 13 takes the height first if it loses twice the pixels of the width
def test_resize_crop_agrees_with_pil_within_a_level(
    width: int, height: int, crop: int, margin: int, interpolation: Interpolation, seed: int
) -> None:
    if max(width, height) > 40 * min(width, height):
        width = height
    shown = preprocessing(crop + margin, crop, interpolation)
    levels = random_photo(width, height, seed).levels
    resize_crop = shown.resize_crop(width, height)
    seen = resize_crop.forward(window_of(levels, resize_crop.window))
    stock = shown.stock(Image.fromarray(levels))
    official = (stock * torch.tensor(shown.std).view(3, 1, 1) + torch.tensor(shown.mean).view(3, 1, 1)) * 255
    difference = (seen - official.round()).abs()
    assert difference.max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (64, 64), (31, 90), (1000, 70), (70, 1000)])
def test_resize_crop_is_nearly_always_the_same_as_stock(width: int, height: int, interpolation: Interpolation) -> None:
    """They differ only where single precision cannot tell on which side of a half a sum falls."""
    shown = preprocessing(interpolation=interpolation)
    levels = random_photo(width, height).levels
    resize_crop = shown.resize_crop(width, height)
    seen = shown.normalise(resize_crop.forward(window_of(levels, resize_crop.window)))
    assert (seen != shown.stock(Image.fromarray(levels))).float().mean() < 0.01


@given(_sizes, _sizes, st.integers(1, 80), st.sampled_from(["bilinear", "bicubic"]))
def test_gradient_is_the_adjoint_of_the_resize(
    width: int, height: int, crop: int, interpolation: Interpolation
) -> None:
    resize_crop = preprocessing(crop + 5, crop, interpolation).resize_crop(width, height)
    shape = (3, *(part.stop - part.start for part in resize_crop.window))
    generator = torch.Generator().manual_seed(width * height)
    picture, gradient = torch.randn(shape, generator=generator), torch.randn(3, crop, crop, generator=generator)
    first, second = resize_crop.axes
    resized = second.forward(first.forward(picture))
    carried = resize_crop.backward(gradient, out=torch.empty(shape))
    torch.testing.assert_close(
        (resized.double() * gradient).sum(), (picture.double() * carried).sum(), rtol=1e-3, atol=1e-2
    )


@pytest.mark.parametrize("size", [(500, 375), (70, 1000)])
def test_one_product_as_on_gpus_gives_what_blocks_give(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = preprocessing(256, 224, "bilinear")
    blocks = shown.resize_crop(*size)
    there = shown.resize_crop(*size, "meta")
    assert [len(axis.blocks) for axis in (*blocks.axes, *there.axes)] == [7, 7, 1, 1]
    monkeypatch.setattr(resampling, "_BLOCK", 224)
    whole = shown.resize_crop(*size)
    assert whole.window == blocks.window == there.window
    picture = window_of(random_photo(*size).levels, whole.window)
    assert (whole.forward(picture) != blocks.forward(picture)).float().mean() < 1e-3
    gradient = torch.randn(3, 224, 224)
    one, other = (resize_crop.backward(gradient, out=torch.empty_like(picture)) for resize_crop in (whole, blocks))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_window_is_just_what_the_crop_depends_on(interpolation: Interpolation) -> None:
    shown, levels = preprocessing(32, 24, interpolation), random_photo(200, 160).levels.copy()
    rows, columns = shown.resize_crop(200, 160).window
    before = shown.stock(Image.fromarray(levels))
    outside = levels.copy()
    outside[: rows.start], outside[rows.stop :] = 0, 255
    outside[:, : columns.start], outside[:, columns.stop :] = 0, 255
    assert torch.equal(shown.stock(Image.fromarray(outside)), before)
    for edge in ((rows.start, slice(None)), (rows.stop - 1, slice(None)), (slice(None), columns.start)):
        inside = levels.copy()
        inside[edge] = 255 * (inside[edge] < 128)
        assert not torch.equal(shown.stock(Image.fromarray(inside)), before)


@pytest.mark.parametrize(("size", "expected"), [((500, 375), (85, 64)), ((375, 500), (64, 85)), ((7, 7), (64, 64))])
def test_the_shorter_side_is_resized(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert preprocessing().resized(*size) == expected


def test_long_and_thin_shapes_are_refused() -> None:
    wide = Preprocessing(resize=256, crop=224, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
    with pytest.raises(PhotoError, match=r"thin\.png .* 853333x256; crop it first"):
        wide.check_size(10000, 3, source="thin.png")
    wide.check_size(1, 1, source="one.png")
    wide.check_size(12000, 9000, source="large.png")


@pytest.mark.parametrize(
    "changes",
    [
        {"crop": 65},
        {"crop": 0},
        {"interpolation": "sinc"},
        {"std": (0.0, 1.0, 1.0)},
        {"mean": (0.5,)},
        *({name: value} for name in ("crop", "resize") for value in (inf, nan, 10**400, -(10**400), 60.5, "60", True)),
        *({name: (1, value, 1)} for name in ("mean", "std") for value in (inf, -inf, nan, 10**400, 1e300, "1", None)),
        {"std": (1, 1, 1e-300)},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_values_out_of_range_are_refused(changes: dict[str, object]) -> None:
    values = {"resize": 64, "crop": 56, "interpolation": "bilinear", "mean": (0, 0, 0), "std": (1, 1, 1)}
    with pytest.raises(ClassifierError) as caught:
        Preprocessing(**(values | changes))  # type: ignore[arg-type]
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_preset_of_another_kind_is_refused() -> None:
    preset = torchvision.models.segmentation.FCN_ResNet50_Weights.DEFAULT.transforms()
    with pytest.raises(ClassifierError, match="not that of an image classifier"):
        Preprocessing.from_preset(preset)


# Preprocessing that squashes.


def squashing(resize: int, crop: int, interpolation: Interpolation) -> Preprocessing:
    return Preprocessing(
        resize=resize, crop=crop, interpolation=interpolation, mean=(0, 0, 0), std=(1 / 255,) * 3, squash=True
    )


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(97, 131), (131, 97), (64, 64), (300, 7), (7, 300)])
def test_squashing_is_pil_s_resize_to_a_square(size: tuple[int, int], interpolation: Interpolation) -> None:
    picture = Image.fromarray(random_photo(*size).levels)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    square = picture.resize((70, 70), filters[interpolation]).crop((3, 3, 67, 67))
    official = torch.from_numpy(np.array(square)).permute(2, 0, 1)
    assert torch.equal(squashing(70, 64, interpolation).stock(picture).round().to(torch.uint8), official)


@given(_sizes, _sizes, st.integers(1, 80), st.integers(0, 30), st.sampled_from(["bilinear", "bicubic"]))
@example(97, 131, 64, 6, "bicubic")
def test_a_squashing_resize_crop_agrees_with_pil_within_a_level(
    width: int, height: int, crop: int, margin: int, interpolation: Interpolation
) -> None:
    shown, levels = squashing(crop + margin, crop, interpolation), random_photo(width, height).levels
    resize_crop = shown.resize_crop(width, height)
    official = shown.stock(Image.fromarray(levels)).round()
    assert (resize_crop.forward(window_of(levels, resize_crop.window)) - official).abs().max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resized", [(64, 64), (97, 41), (300, 211)])
def test_torch_s_resize_is_that_of_torchvision(interpolation: Interpolation, resized: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (131, 203, 3), dtype=np.uint8)
    described = replace(preprocessing(), resize=resized, crop=resized, interpolation=interpolation, library="torch")
    ours = np.asarray(described.cropped(Image.fromarray(levels))).astype(int)
    mode = InterpolationMode(interpolation)
    size = [resized[1], resized[0]]
    theirs = (
        functional.resize(torch.from_numpy(levels).permute(2, 0, 1), size, mode).permute(1, 2, 0).numpy().astype(int)
    )
    assert np.abs(ours - theirs).max() <= 1
    assert (ours != theirs).mean() < 0.001


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
def test_every_filter_of_pil_has_a_differentiable_form(interpolation: Interpolation) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (131, 203, 3), dtype=np.uint8)
    described = replace(preprocessing(), resize=(97, 141), crop=(90, 50), interpolation=interpolation)
    form = described.resize_crop(203, 131)
    rows, columns = form.window
    ours = form.forward(torch.from_numpy(levels).permute(2, 0, 1)[:, rows, columns].float())
    theirs = np.asarray(described.cropped(Image.fromarray(levels))).transpose(2, 0, 1)
    assert ours.shape == (3, 50, 90)
    assert np.abs(ours.numpy() - theirs).max() <= 1
    assert (ours.numpy() != theirs).mean() < 0.001


_LENGTHS = [(size, resized) for size in range(1, 41) for resized in range(1, 41)] + [(4000, 3001), (1999, 224)]


def _chosen(size: int, resized: int, library: Library) -> list[int]:
    """Return which samples of a row of ``size`` the resize keeps."""
    axis = resampling.resample_axis(-1, size, resized, slice(0, resized), "nearest", library=library)
    numbers = torch.arange(size, dtype=torch.float32)[None, axis.window]
    return [int(number) for number in axis.forward(numbers)[0]]


def test_nearest_keeps_the_pixels_that_pil_keeps() -> None:
    off = []
    for size, resized in _LENGTHS:
        row = Image.fromarray(np.arange(size, dtype=np.int32)[None])
        column = Image.fromarray(np.arange(size, dtype=np.int32)[:, None])
        across = np.asarray(row.resize((resized, 1), Image.Resampling.NEAREST))[0].tolist()
        down = np.asarray(column.resize((1, resized), Image.Resampling.NEAREST))[:, 0].tolist()
        if not _chosen(size, resized, "pil") == across == down:
            off.append((size, resized))
    assert off == []


def test_nearest_keeps_the_pixels_that_torch_keeps() -> None:
    off = []
    for size, resized in _LENGTHS:
        row = torch.arange(size, dtype=torch.float32).view(1, 1, size)
        kept = functional.resize(row, [1, resized], InterpolationMode.NEAREST_EXACT)[0, 0]
        if _chosen(size, resized, "torch") != kept.to(torch.int64).tolist():
            off.append((size, resized))
    assert off == []


@pytest.mark.parametrize("size", [(203, 131), (90, 300)])
def test_a_larger_crop_is_filled_up_with_black(size: tuple[int, int]) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    described = replace(preprocessing(resize=64), crop=(87, 101), corner="lower", pad=True)
    form = described.resize_crop(*size)
    rows, columns = form.window
    ours = form.forward(torch.from_numpy(levels).permute(2, 0, 1)[:, rows, columns].float())
    theirs = np.asarray(described.cropped(Image.fromarray(levels))).transpose(2, 0, 1)
    assert np.abs(ours.numpy() - theirs).max() <= 1
    edge = ours[:, 0] if size[0] > size[1] else ours[:, :, 0]
    assert not edge.any()


@pytest.mark.parametrize(("corner", "left"), [("nearest", 2), ("lower", 1)])
def test_the_corner_of_a_crop_between_two_pixels(corner: Corner, left: int) -> None:
    described = replace(preprocessing(resize=64, crop=61), corner=corner)
    assert described.resize_crop(64, 64).window == (slice(left, left + 61), slice(left, left + 61))
