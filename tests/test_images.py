"""Reading any common picture file, and writing whole PNGs."""

import errno
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from advimg.errors import OutputError, PhotoError
from advimg.images.decode import decode_photo, photo_from_pixels, read_photo
from advimg.images.encode import encode_png
from advimg.images.perturbation import Amplify, amplified, factor_for, measure_change
from advimg.storage.files import check_output, made_folder, make_folder, sweep, write_whole
from tests.conftest import encoded, random_photo, with_chunk

_RGB = Image.fromarray(random_photo(23, 17).levels)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_levels(kind: str) -> None:
    assert np.array_equal(decode_photo(encoded(_RGB, kind), source="x").levels, np.asarray(_RGB))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_give_what_pil_gives(kind: str) -> None:
    data = encoded(_RGB, kind)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    photo = decode_photo(data, source="x")
    assert np.array_equal(photo.levels, expected)
    assert photo.size == (23, 17)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_modes_become_rgb_the_way_pil_does(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    data = encoded(_RGB.convert(mode), kind)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    photo = decode_photo(data, source="x")
    assert np.array_equal(photo.levels, expected)
    assert photo.alpha is None


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_saturated(kind: str) -> None:
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    photo = decode_photo(encoded(Image.fromarray(deep), kind), source="x")
    assert np.array_equal(photo.levels, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


def test_transparency_of_sixteen_bits_is_kept() -> None:
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    data = encoded(Image.fromarray(deep), "PNG")
    photo = decode_photo(with_chunk(data, b"tRNS", struct.pack(">H", 257 * 5)), source="x")
    assert photo.alpha is not None
    assert np.array_equal(photo.alpha, np.where(deep == 257 * 5, 0, 255))
    assert decode_photo(encoded(Image.fromarray(deep), "PNG"), source="x").alpha is None


def test_a_picture_without_pixels_is_one_line() -> None:
    with pytest.raises(PhotoError, match=r"^x has 0x5 pixels, so there is nothing to attack$"):
        photo_from_pixels(Image.new("RGB", (0, 5)), source="x")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_to_the_pixels(orientation: int) -> None:
    turned = decode_photo(encoded(_RGB, "PNG", exif=_orientation(orientation)), source="x")
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }[orientation](np.asarray(_RGB))
    assert np.array_equal(turned.levels, upright)


def test_odd_exif_does_not_hide_the_photo() -> None:
    """An XResolution that is text: PIL reads such EXIF, and cannot write it again."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x011A, 2, 4, b"odd\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)
    photo = decode_photo(encoded(_RGB, "JPEG", exif=exif), source="x")
    assert photo.size == (17, 23)


def test_the_output_has_no_orientation_tag() -> None:
    photo = decode_photo(encoded(_RGB, "JPEG", exif=_orientation(6)), source="x")
    with Image.open(io.BytesIO(encode_png(photo.levels))) as reopened:
        assert 0x0112 not in reopened.getexif()
        assert reopened.size == (17, 23)


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA-like"])
def test_alpha_is_kept_as_it_is(mode: str) -> None:
    alpha = random_photo(23, 17, seed=5).levels[:, :, 0]
    picture = _RGB.convert("L" if mode == "LA" else "RGB")
    picture.putalpha(Image.fromarray(alpha))
    if mode == "PA-like":
        picture = picture.quantize(64)
    data = encoded(picture, "PNG")
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGBA"))
    photo = decode_photo(data, source="x")
    assert photo.alpha is not None
    assert np.array_equal(np.dstack([photo.levels, photo.alpha]), expected)
    reopened = decode_photo(encode_png(photo.levels, alpha=photo.alpha), source="y")
    assert reopened.alpha is not None
    assert np.array_equal(reopened.alpha, photo.alpha)


def test_an_rgb_profile_is_carried_over_and_a_grey_one_is_not() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = decode_photo(encoded(_RGB, "JPEG", icc_profile=profile), source="x")
    assert photo.icc_profile == profile
    with Image.open(io.BytesIO(encode_png(photo.levels, icc_profile=photo.icc_profile))) as reopened:
        assert reopened.info["icc_profile"] == profile
    grey = profile[:16] + b"GRAY" + profile[20:]
    assert decode_photo(encoded(_RGB.convert("L"), "JPEG", icc_profile=grey), source="x").icc_profile is None
    with Image.open(io.BytesIO(encode_png(photo.levels))) as bare:
        assert "icc_profile" not in bare.info


def test_a_gif_of_many_frames_gives_its_first_with_a_note() -> None:
    other = Image.fromarray(255 - np.asarray(_RGB))
    data = encoded(_RGB, "GIF", save_all=True, append_images=[other, _RGB])
    photo = decode_photo(data, source="film.gif")
    assert photo.notes == ("film.gif has 3 frames; only the first is used",)
    assert np.array_equal(photo.levels, decode_photo(encoded(_RGB, "GIF"), source="x").levels)


def _png(width: int, height: int) -> bytes:
    """A PNG header that claims a size."""
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", width, height, 8, 2, 0, 0, 0) + b"\0\0\0\0"


_BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"not a picture", "not a picture"),
    "truncated jpeg": (lambda: encoded(_RGB, "JPEG")[:-200], "damaged"),
    "truncated png": (lambda: encoded(_RGB, "PNG")[:-200], "damaged"),
    "bomb": (lambda: encoded(Image.new("1", (20000, 20000)), "PNG"), "400,000,000 pixels"),
    "claimed size": (lambda: _png(2**31 - 1, 2**31 - 1), "pixels|not a picture|damaged"),
    "floats": (lambda: encoded(Image.new("F", (4, 4)), "TIFF"), "floating-point"),
    "32 bits": (lambda: encoded(Image.new("I", (4, 4), 10**6), "TIFF"), "32-bit"),
    "32 bits, dark": (lambda: encoded(Image.new("I", (4, 4), 255), "TIFF"), "32-bit"),
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
}


@pytest.mark.parametrize("kind", _BROKEN)
def test_broken_files_are_one_line(kind: str) -> None:
    make, message = _BROKEN[kind]
    with pytest.raises(PhotoError, match=message) as caught:
        decode_photo(make(), source="it.png")
    assert "\n" not in str(caught.value)
    assert "it.png" in str(caught.value)


def test_max_pixels_is_the_caller_s() -> None:
    data = encoded(Image.new("L", (100, 100)), "PNG")
    assert decode_photo(data, source="x", max_pixels=10_000).size == (100, 100)
    with pytest.raises(PhotoError, match="--max-pixels"):
        decode_photo(data, source="x", max_pixels=9_999)


def test_pil_s_own_limit_is_left_as_it_was() -> None:
    limit = Image.MAX_IMAGE_PIXELS
    decode_photo(encoded(_RGB, "PNG"), source="x")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="does not exist"):
        read_photo(tmp_path / "no.jpg")
    with pytest.raises(PhotoError, match="is a folder"):
        read_photo(tmp_path)


@pytest.mark.parametrize("array", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)], ids=str)
def test_arrays_of_another_shape_are_refused(array: np.ndarray) -> None:
    with pytest.raises(PhotoError, match="uint8"):
        photo_from_pixels(array)


@pytest.mark.parametrize(
    ("amplify", "linf", "factor"),
    [("auto", 0, 10), ("auto", 1, 127), ("auto", 3, 42), ("auto", 12, 10), ("auto", 16, 10), (2.5, 3, 2.5)],
)
def test_the_largest_change_spans_the_range(amplify: Amplify, linf: int, factor: float) -> None:
    assert factor_for(amplify, linf) == factor
    if amplify == "auto" and 0 < linf <= 12:
        before, after = np.full((2, 1, 1, 3), 100, dtype=np.uint8)
        after[0, 0] += np.array([linf, 0, 0], dtype=np.uint8)
        assert amplified(before, after, factor)[0, 0, 0] > 128 + 127 - linf


def test_amplified_is_mid_grey_plus_the_multiple() -> None:
    before = np.array([[[100, 100, 100], [0, 255, 7]]], dtype=np.uint8)
    after = np.array([[[101, 90, 113], [0, 0, 255]]], dtype=np.uint8)
    assert amplified(before, after, 10).tolist() == [[[138, 28, 255], [128, 0, 255]]]


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (40, 500)])
def test_change_is_measured_over_all_channels(size: tuple[int, int]) -> None:
    before, after = random_photo(*size, seed=1).levels, random_photo(*size, seed=2).levels
    difference = after.astype(float) - before
    change = measure_change(before, after)
    assert change.linf == abs(difference).max()
    assert change.psnr == pytest.approx(10 * np.log10(255**2 / (difference**2).mean()), abs=0.01)
    grey = np.clip(128 + 3 * difference, 0, 255)
    assert np.array_equal(amplified(before, after, 3), grey)
    unchanged = measure_change(before, before)
    assert (unchanged.linf, unchanged.psnr) == (0, None)


def test_the_chunk_travels_with_the_photo() -> None:
    levels = random_photo(3, 3).levels
    assert decode_photo(encode_png(levels, chunk='{"eps": 4}'), source="x").chunk == '{"eps": 4}'
    assert decode_photo(encode_png(levels), source="x").chunk is None
    assert decode_photo(encoded(_RGB, "JPEG"), source="x").chunk is None


def test_writes_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(OutputError, match="did not read back"):
        write_whole(path, b"data", overwrite=False, check=lambda data: data != b"data")
    assert list(tmp_path.iterdir()) == []
    write_whole(path, b"data", overwrite=False, check=lambda data: data == b"data")
    assert path.read_bytes() == b"data"
    with pytest.raises(OutputError, match="--force"):
        write_whole(path, b"other", overwrite=False)
    assert path.read_bytes() == b"data"
    write_whole(path, b"other", overwrite=True)
    assert path.read_bytes() == b"other"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(data: bytes) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x.png", b"data", overwrite=False, check=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "x.png"

    def appear(data: bytes) -> bool:
        path.write_bytes(b"mine")
        return True

    with pytest.raises(OutputError, match="--force"):
        write_whole(path, b"data", overwrite=False, check=appear)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"x.png": b"mine"}


def test_a_file_system_without_hard_links_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "x.png"
    write_whole(path, b"data", overwrite=False)
    with pytest.raises(OutputError, match="--force"):
        write_whole(path, b"other", overwrite=False)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"x.png": b"data"}


def test_a_sweep_removes_what_was_abandoned_and_not_what_is_being_written(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/.advimg-1-abcd.tmp").write_bytes(b"half")
    (tmp_path / ".advimg-mine.tmp").write_bytes(b"mine")
    (tmp_path / ".advimg-2-abcd.tmp").mkdir()
    (tmp_path / ".advimg-3-abcd.tmp").symlink_to(tmp_path / ".advimg-mine.tmp")
    kept = set(tmp_path.rglob("*")) - {tmp_path / "sub/.advimg-1-abcd.tmp"}

    def swept(data: bytes) -> bool:
        sweep(tmp_path)
        return True

    write_whole(tmp_path / "sub/x.png", b"data", overwrite=False, check=swept)
    assert set(tmp_path.rglob("*")) == kept | {tmp_path / "sub/x.png"}


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    plain.write_bytes(b"")
    write_whole(whole, b"", overwrite=False)
    assert plain.stat().st_mode == whole.stat().st_mode


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    file = tmp_path / "file.png"
    file.touch()
    with pytest.raises(OutputError, match="does not exist"):
        check_output(tmp_path / "no" / "x.png", overwrite=False)
    with pytest.raises(OutputError, match="is a file"):
        check_output(file / "x.png", overwrite=False)
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="--force"):
        check_output(file, overwrite=False)
    check_output(file, overwrite=True)
    assert list(tmp_path.iterdir()) == [file]


def test_folders_that_were_made_and_hold_nothing_go_again(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with made_folder(tmp_path / "own" / "a" / "b" / "c"):
        assert (tmp_path / "own" / "a" / "b" / "c").is_dir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "own"]
    with made_folder(tmp_path / "own"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "own"]
    with made_folder(tmp_path / "own" / "a" / "b"):
        (tmp_path / "own" / "a" / "file").touch()
    assert {path.name for path in tmp_path.rglob("*")} == {"own", "a", "file"}


def test_a_folder_that_cannot_be_made_leaves_none_above_it(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot make the folder"):
        make_folder(tmp_path / "a" / "b" / ("x" * 300))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(OutputError, match="cannot make the folder"):
            make_folder(path)
    assert make_folder(tmp_path / "a" / "b") == [tmp_path / "a", tmp_path / "a" / "b"]
    assert make_folder(tmp_path / "a" / "b") == []


def test_the_longest_file_name_works(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    write_whole(path, b"data", overwrite=False)
    assert path.read_bytes() == b"data"
