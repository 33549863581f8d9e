"""The measures of how visible a change is, held against the published values and scikit-image's."""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from skimage.io import imread

from advimg.images.photo import Levels
from advimg.images.visibility import _spread, ciede2000, lab, measure_visibility
from advimg.record import Visibility
from tests.conftest import sample

# Sharma, Wu and Dalal 2005, table 1: two colours in CIELAB, and their difference.
_PAIRS = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000
50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.49 -0.001 50 -2.49 0.0009 7.1792
50 2.49 -0.001 50 -2.49 0.0010 7.1792
50 2.49 -0.001 50 -2.49 0.0011 7.2195
50 2.49 -0.001 50 -2.49 0.0012 7.2195
50 -0.001 2.49 50 0.0009 -2.49 4.8045
50 -0.001 2.49 50 0.0010 -2.49 4.8045
50 -0.001 2.49 50 0.0011 -2.49 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000
50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000
50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""
# Untyped, to mypy.
color: Any = importlib.import_module("skimage.color")
metrics: Any = importlib.import_module("skimage.metrics")
_LUMA = np.array([0.299, 0.587, 0.114])


def changed(photo: Levels, eps: int, *, seed: int = 0) -> Levels:
    noise = np.random.default_rng(seed).integers(-eps, eps + 1, photo.shape)
    picture: Levels = np.clip(photo.astype(np.int64) + noise, 0, 255).astype(np.uint8)
    return picture


def noise(width: int, height: int, seed: int = 0) -> Levels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def differences(before: Levels, after: Levels) -> npt.NDArray[np.float64]:
    """Return scikit-image's CIEDE2000 of each pixel."""
    return np.asarray(color.deltaE_ciede2000(color.rgb2lab(before), color.rgb2lab(after)))


def similarity(before: Levels, after: Levels) -> float:
    """Return scikit-image's SSIM of luma."""
    return float(metrics.structural_similarity(before @ _LUMA, after @ _LUMA, data_range=255))


def test_the_published_pairs() -> None:
    values = np.array([line.split() for line in _PAIRS.split("\n") if line], dtype=float).T
    assert values.shape == (7, 34)
    assert ciede2000(values[:3], values[3:6]) == pytest.approx(values[6], abs=5e-5)
    assert ciede2000(values[3:6], values[:3]) == pytest.approx(values[6], abs=5e-5)


def test_lab_is_scikit_image_s() -> None:
    levels = noise(64, 64)
    np.testing.assert_allclose(lab(levels.reshape(-1, 3)).T, color.rgb2lab(levels).reshape(-1, 3), atol=2e-3)


@pytest.mark.parametrize("name", ["coffee.png", "chelsea.png", "astronaut.png"])
@pytest.mark.parametrize("eps", [1, 4, 16])
def test_photos_measure_as_scikit_image_measures_them(name: str, eps: int) -> None:
    photo = imread(sample(name))
    picture = photo.copy()
    box = np.s_[17:280, 40:290]
    picture[box] = changed(photo[box], eps)
    expected = differences(photo[box], picture[box])
    measured = measure_visibility(photo, picture)
    assert measured is not None
    # Of 65,000 changed pixels half are compared.
    assert measured.delta_e_mean == pytest.approx(expected.mean(), rel=0.01)
    assert measured.delta_e_p95 == pytest.approx(np.percentile(expected, 95), rel=0.02)
    assert measured.ssim == pytest.approx(similarity(photo[box], picture[box]), abs=1e-5)


def test_the_colours_of_a_small_change_are_all_compared() -> None:
    photo = imread(sample("coffee.png"))
    picture = photo.copy()
    box = np.s_[40:220, 60:240]
    picture[box] = changed(photo[box], 4)
    expected = differences(photo[box], picture[box])
    measured = measure_visibility(photo, picture)
    assert measured is not None
    assert measured.delta_e_mean == pytest.approx(expected.mean(), abs=1e-3)
    assert measured.delta_e_p95 == pytest.approx(np.percentile(expected, 95), abs=2e-3)


@pytest.mark.parametrize("width", [512, 600, 625, 630, 1024])
def test_a_sample_of_many_pixels_takes_every_column_in(width: int) -> None:
    photo = np.full((400, width, 3), 120, dtype=np.uint8)
    picture = photo + np.uint8(1)
    picture[:, ::5] += 8
    picture[:, ::12] += 20
    expected = differences(photo, picture)
    measured = measure_visibility(photo, picture)
    assert measured is not None
    assert measured.delta_e_mean == pytest.approx(expected.mean(), rel=0.03)
    assert measured.delta_e_p95 == pytest.approx(np.percentile(expected, 95), rel=0.02)


def test_the_percentile_is_that_of_all_pixels() -> None:
    photo = np.full((4, 5, 3), 120, dtype=np.uint8)
    picture = photo + np.uint8(2)
    picture[0, 0] += 60
    expected = np.sort(differences(photo, picture).ravel())
    measured = measure_visibility(photo, picture)
    assert measured is not None
    assert measured.delta_e_p95 == pytest.approx(expected[18], abs=1e-3)  # 19 of 20 pixels differ by no more


@pytest.mark.parametrize("count", [32_769, 40_000, 70_001])
def test_a_sample_has_one_of_each_equal_part(count: int) -> None:
    ranks = _spread(count)
    assert len(ranks) == 32_768
    assert np.abs(ranks - np.arange(32_768) * (count / 32_768)).max() <= count / 32_768
    assert (np.diff(ranks) >= 0).all()
    assert ranks[-1] < count


def test_large_pictures_are_measured_in_parts_that_make_up_the_whole() -> None:
    photo = noise(700, 500)
    picture = changed(photo, 3)
    expected = differences(photo, picture)
    measured = measure_visibility(photo, picture)
    assert measured is not None
    assert measured.delta_e_mean == pytest.approx(expected.mean(), rel=0.01)
    assert measured.ssim == pytest.approx(similarity(photo, picture), abs=1e-5)


def test_pixels_of_the_box_that_did_not_change_count_as_no_difference() -> None:
    photo = np.full((40, 50, 3), 120, dtype=np.uint8)
    picture = photo.copy()
    picture[10, 10] += 5
    picture[19, 29] += 5  # a box of 10 x 20, in which 2 of 200 pixels changed
    measured = measure_visibility(photo, picture)
    assert measured is not None
    each = differences(photo[10:11, 10:11], picture[10:11, 10:11]).item()
    assert measured.delta_e_mean == pytest.approx(2 * each / 200, abs=6e-4)
    assert measured.delta_e_p95 == 0
    assert 0.9 < measured.ssim < 1


def test_where_nothing_changed_there_is_nothing_to_measure() -> None:
    photo = noise(9, 8)
    assert measure_visibility(photo, photo.copy()) is None


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (5, 9), (7, 7)], ids=str)
def test_the_smallest_photos_have_measures(size: tuple[int, int]) -> None:
    photo = noise(*size)
    picture = photo.copy()
    picture[-1, -1] = 255 - picture[-1, -1]
    measured = measure_visibility(photo, picture)
    assert measured is not None
    assert measured.delta_e_p95 >= 0
    assert -1 <= measured.ssim < 1


def test_a_change_of_one_pixel_is_seen_through_a_whole_window() -> None:
    photo = noise(30, 20)
    picture = photo.copy()
    picture[0, 29] ^= 64
    measured = measure_visibility(photo, picture)
    assert measured is not None
    assert measured.ssim == pytest.approx(similarity(photo[:7, 23:], picture[:7, 23:]), abs=1e-5)


@pytest.mark.parametrize(
    ("mean", "p95", "words"),
    [
        (0.49, 0.99, "a person will not see it"),
        (0.5, 0.9, "a person will hardly see it"),
        (0.3, 1.0, "a person will hardly see it"),
        (1.0, 2.0, "a person will see it on a close look"),
        (2.5, 5.0, "a person will see it"),
        (0.1, 6.0, "a person will see it"),
    ],
)
def test_words_go_by_the_mean_and_by_the_strongest_twentieth(mean: float, p95: float, words: str) -> None:
    assert Visibility(delta_e_mean=mean, delta_e_p95=p95, ssim=0.9).in_words == words


@pytest.mark.parametrize(
    ("ssim", "shown"),
    [(0.9979, "ΔE 0.31, SSIM 0.998"), (0.99951, "ΔE 0.31, SSIM > 0.999"), (1.0, "ΔE 0.31, SSIM 1.000")],
)
def test_the_measures_for_people(ssim: float, shown: str) -> None:
    assert Visibility(delta_e_mean=0.312, delta_e_p95=1, ssim=ssim).measures == shown
