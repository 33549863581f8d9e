"""What an image processor does, as a preprocessing that can be differentiated.

Processors of transformers and transforms of open_clip name their sizes in a dozen ways, and some resize with torch and
not with PIL. So what one does is found by trying: candidates are made from the numbers that it holds, and the one that
gives the same levels on a few pictures is taken. What follows the crop (rescaling, normalisation, order of channels) is
the same for all pixels, and is read off pictures of one colour.

The verdict comes from the processor itself, whatever is found here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from torch import Tensor

from advimg.classifiers.description import rounded, sample_pictures
from advimg.classifiers.device import failing_as, repeatable
from advimg.classifiers.preprocessing import Corner, Preprocessing, shown
from advimg.errors import ClassifierError
from advimg.transforms.base import planes
from advimg.transforms.resampling import FILTERS, Interpolation, Library

Process = Callable[[Image.Image], Any]
"""A processor's official path, from an RGB picture to what the network is given, [1, 3, height, width]."""

# Values that differ by no more than a level are the same; all but so many have to be.
_LEVEL = 1.01
_SHARE = 1e-3
# Shares of the resized picture that processors and timm's models crop where they do not say so.
_SHARES = 0.875, 224 / 256, 0.9, 0.95, 0.96, 0.965, 0.98
# What a candidate stands for; a step of any other name that is on is named where none fits.
_KNOWN = frozenset(
    f"do_{step}"
    for step in ("resize", "center_crop", "rescale", "normalize", "convert_rgb", "flip_channel_order", "reduce_labels")
)
_LIKELY = 3
_SIDE = 96
_DIGITS = 6
_FILTERS: Mapping[int, Interpolation] = {int(FILTERS[each].number): each for each in get_args(Interpolation)}


@dataclass(frozen=True, eq=False)
class OwnProcessor:
    """An image processor as a function from an RGB picture to the network's input, [3, height, width].

    Attributes:
        process: its official path.
        name: of its class, as records name it.
    """

    process: Process
    name: str

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, picture: Image.Image) -> Tensor:
        """Process a picture.

        Raises:
            ClassifierError: the result is not one input of three channels.
        """
        given: object = self.process(picture)
        if not isinstance(given, Tensor) or given.ndim != 4 or given.shape[:2] != (1, 3):
            found = f"of shape {list(given.shape)}" if isinstance(given, Tensor) else f"of type {type(given).__name__}"
            raise ClassifierError(
                f"the image processor {self.name} makes an input {found}; [1, 3, height, width] was expected"
            )
        return given[0]


def described(process: Process, processor: Any, name: str) -> Preprocessing:
    """Return the preprocessing of an image processor: its own code, and the description that gradients go through.

    They agree up to one of 255 levels at all but 0.1% of the values of pictures of several shapes.

    Args:
        process: the processor's official path.
        processor: holds the numbers that sizes are guessed from, as ``size``, ``crop_size``, ``crop_pct``.
        name: of the model, for messages.

    Raises:
        ClassifierError: the processor fails, depends on chance, makes inputs of several sizes, or does something else.
    """
    own = OwnProcessor(process, type(processor).__name__)
    pictures = list(sample_pictures())
    # PIL resizes the height of a tall picture before its width, torch never does.
    pictures.append(pictures[-1].resize((_SIDE, 5 * _SIDE)))
    with failing_as(f"{name}: its image processor {own.name} fails"), repeatable(torch.device("cpu"), exact=True):
        given = [_processed(own, picture) for picture in pictures]
        again = _processed(own, pictures[0])
        mean, std, channels = _affine(own, pictures[0].size, name)
    if not torch.equal(given[0], again):
        raise _refusal(name, own, "makes different inputs of one picture")
    sizes = list(dict.fromkeys((each.shape[-1], each.shape[-2]) for each in given))
    if len(sizes) > 1:
        raise _refusal(name, own, f"makes inputs of several sizes ({', '.join(map(shown, sizes))})")
    plain = Preprocessing(
        resize=max(sizes[0]), crop=sizes[0], interpolation="bilinear", mean=mean, std=std, channels=channels, pad=True
    )
    samples = [(picture, _levels_of(plain, each)) for picture, each in zip(pictures, given, strict=True)]
    found, share = _nearest(_candidates(plain, processor), samples)
    if share <= _SHARE and (between := _between(found)) is not None:
        picture = pictures[-1].resize(between)
        samples.append((picture, _levels_of(plain, _processed(own, picture))))
        found, share = _nearest([found], samples)
    if share > _SHARE:
        raise _refusal(name, own, f"does something else than resize, crop and normalise{_others(processor)}")
    return replace(_simplest(found), preprocess=own)


def written(folder: Path) -> tuple[int, ...]:
    """Return when the files of a folder were written that say what a processor does, in nanoseconds.

    What :func:`described` returns is kept under the folder and this, as finding it takes a second.
    """
    return tuple(path.stat().st_mtime_ns for path in sorted(folder.glob("*.json")) if path.exists())


def _levels_of(plain: Preprocessing, given: Tensor) -> Tensor:
    """Return the RGB levels that a network's input stands for."""
    levels = given * torch.tensor(plain.std).view(3, 1, 1) + torch.tensor(plain.mean).view(3, 1, 1)
    return (levels.flip(0) if plain.channels == "bgr" else levels).mul(255)


def _between(found: Preprocessing) -> tuple[int, int] | None:
    """Return a size of pictures by which the two ways to round the crop's corner differ; None if there is none."""
    for longer in range(_SIDE, 2 * _SIDE):
        wide, _ = found.resized(longer, _SIDE)
        if (wide - found.size[0]) % 4 == 3:  # of a half above an odd number, one way goes up and the other down
            return longer, _SIDE
    return None


def _simplest(found: Preprocessing) -> Preprocessing:
    """Return a description with one side where both are the same, and without what it does not need."""
    width, height = found.size
    resize = found.resize
    if isinstance(resize, tuple) and resize[0] == resize[1]:
        resize = resize[0]
    wide, high = (resize, resize) if isinstance(resize, int) else resize
    crop = width if width == height else found.size
    return replace(found, resize=resize, crop=crop, pad=width > wide or height > high)


def _processed(own: OwnProcessor, picture: Image.Image) -> Tensor:
    given: Tensor = own(picture.copy()).detach().to("cpu", torch.float32, copy=True)
    return given


def _affine(own: OwnProcessor, size: tuple[int, int], name: str) -> tuple[tuple[float, ...], tuple[float, ...], Any]:
    """Return mean, std and order of the channels, read off the middle of pictures of one colour."""

    def seen(colour: tuple[int, int, int]) -> Tensor:
        given = _processed(own, Image.new("RGB", size, colour)).double()
        return given[:, given.shape[1] // 2, given.shape[2] // 2]

    black = seen((0, 0, 0))
    slopes = torch.stack([seen(colour) - black for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))], dim=1)
    grey = seen((128, 128, 128)) - black
    for channels, own_slopes in (("rgb", slopes.diagonal()), ("bgr", slopes.flip(1).diagonal())):
        alone = (slopes.abs().sum(1) - own_slopes.abs()).max() <= 1e-4 * own_slopes.abs().max()
        if alone and (own_slopes > 0).all() and torch.allclose(grey, own_slopes * 128 / 255, rtol=1e-4):
            return rounded(-black / own_slopes, _DIGITS), rounded(1 / own_slopes, _DIGITS), channels
    raise _refusal(name, own, "changes colours otherwise than by a mean and a std for each channel")


def _nearest(
    candidates: Sequence[Preprocessing], samples: Sequence[tuple[Image.Image, Tensor]]
) -> tuple[Preprocessing, float]:
    """Return the description that comes nearest to samples of levels, and the share of values that it misses."""
    # The geometry decides most, and a small picture shows it; with the other corner all would be off by a pixel.
    picture, levels = min(samples, key=lambda sample: sample[0].width * sample[0].height)
    off = [
        min(_miss(replace(each, corner=corner), picture, levels)[1] for corner in get_args(Corner))
        for each in candidates
    ]
    likely = [candidates[index] for index in sorted(range(len(off)), key=off.__getitem__)[:_LIKELY]]
    variants = [
        replace(geometry, library=library, corner=corner)
        for geometry in likely
        for library in get_args(Library)
        for corner in get_args(Corner)
    ]
    misses = [max(_miss(variant, *sample) for sample in samples) for variant in variants]
    least = min(misses)
    return variants[misses.index(least)], least[0]


def _miss(candidate: Preprocessing, picture: Image.Image, levels: Tensor) -> tuple[float, float]:
    """Return the share of values that a description misses by more than a level, and by how much it misses all."""
    apart = (planes(candidate.cropped(picture), torch.device("cpu")) - levels).abs()
    return float((apart > _LEVEL).float().mean()), float(apart.mean())


def _candidates(plain: Preprocessing, processor: Any) -> list[Preprocessing]:
    """Return the resizes that a processor may do, the likeliest first, all with PIL and one corner."""
    number: object = getattr(processor, "resample", None)
    named = _FILTERS.get(int(number)) if isinstance(number, int) else None
    lengths, pairs = _sizes(processor, *plain.size)
    geometries: list[dict[str, Any]] = [{"resize": pair, "squash": True} for pair in pairs]
    geometries += [{"resize": length, "squash": False} for length in lengths]
    return [
        replace(plain, interpolation=interpolation, **geometry)
        for interpolation in ((named,) if named else get_args(Interpolation))
        for geometry in geometries
    ]


def _sizes(processor: Any, width: int, height: int) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
    """Return lengths of the shorter side, and pairs of sides, that a processor may resize to."""
    size, crop = (_plain(getattr(processor, name, None)) for name in ("size", "crop_size"))
    config = getattr(processor, "data_config", None)
    shares = [getattr(processor, "crop_pct", None), config.get("crop_pct") if isinstance(config, dict) else None]
    known = [float(share) for share in shares if isinstance(share, int | float) and 0 < share <= 1]
    numbers = sorted({*size.values(), *crop.values(), width, height})
    sides = [(size["width"], size["height"])] if {"width", "height"} <= set(size) else []
    lengths, pairs = dict.fromkeys(numbers), dict.fromkeys([(width, height), *sides])
    for share in (*known, *_SHARES):
        for wide, high in [(width, height), *sides]:
            pairs[int(wide / share), int(high / share)] = None
        for length in numbers:
            lengths.update(dict.fromkeys((int(length / share), round(length / share))))
    return list(lengths), list(pairs)


def _plain(size: Any) -> dict[str, int]:
    """Return the sides that a processor's size names."""
    values = {"edge": size} if isinstance(size, int) else dict(size) if size is not None else {}
    return {key: value for key, value in values.items() if type(value) is int and value > 0}


def _others(processor: Any) -> str:
    """Return the words for steps of a processor that no candidate has, if its attributes name any."""
    steps = sorted(key for key, value in vars(processor).items() if key.startswith("do_") and value is True)
    others = [step for step in steps if step not in _KNOWN]
    return f" ({', '.join(others)})" if others else ""


def _refusal(name: str, own: OwnProcessor, what: str) -> ClassifierError:
    return ClassifierError(f"{name} cannot be used: its image processor {own.name} {what}")
