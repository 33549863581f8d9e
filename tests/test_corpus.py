"""A corpus of pictures and texts made here, and thousands of damaged copies of them.

Pictures are of the modes, encodings, orientations, profiles, frame counts and lengths below, as Pillow writes them.
Each is attacked or refused with one line; what is attacked keeps the promise by the verdict of code that shares nothing
with the attack. Of damaged bytes nothing but an ``AdvimgError`` may come out.
"""

import json
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, PngImagePlugin
from torchvision import transforms

import advimg
from advimg.batches.journal import Journal, read_records
from advimg.batches.pairs import read_pairs
from advimg.batches.photos import read_list
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.spec import ModelSpec
from advimg.cli.app import app
from advimg.errors import AdvimgError
from advimg.images.decode import decode_photo
from advimg.labels import imagenet_labels
from advimg.record import CHUNK_KEY
from advimg.record_schema import read_chunk
from tests.batches import EPS, quick_classifier, records_of, save_photos, write
from tests.conftest import Cli, encoded, random_photo, sample, weight_of, with_chunk

_WIDTH, _HEIGHT = 29, 19


@cache
def _base() -> Image.Image:
    """Return a small piece of a photo, wider than high, so that a wrong turn shows."""
    with Image.open(sample("chelsea.png")) as photo:
        piece = photo.convert("RGB").resize((_WIDTH, _HEIGHT), Image.Resampling.BOX, (120, 60, 410, 250))
    return Image.fromarray(np.asarray(piece))  # without the photo's colour profile


def _alpha() -> Image.Image:
    return Image.fromarray(random_photo(_WIDTH, _HEIGHT, 7).levels[:, :, 0])


def _deep() -> Image.Image:
    """Return 16 bits a pixel, all of them used."""
    return Image.fromarray(np.random.default_rng(3).integers(0, 1 << 16, (_HEIGHT, _WIDTH)).astype(np.uint16))


def _profile(space: bytes, size: int = 400) -> bytes:
    """Return bytes with the header of a colour profile."""
    header = struct.pack(">I", size) + bytes(12) + space + b"XYZ " + bytes(12) + b"acsp"
    return header.ljust(size, b"\0")


def _mode(mode: str) -> Image.Image:
    """Return the base in a mode of Pillow's."""
    if mode in ("LA", "RGBA"):
        picture = _base().convert(mode)
        picture.putalpha(_alpha())
        return picture
    if mode == "PA":
        return _mode("RGBA").convert("PA")
    return _deep() if mode == "I;16" else _base().convert(mode)


_MODES = {
    "jpg": ("JPEG", ("L", "RGB", "CMYK", "YCbCr")),
    "png": ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    "webp": ("WEBP", ("L", "RGB", "RGBA", "P")),
    "bmp": ("BMP", ("1", "L", "P", "RGB", "RGBA")),
    "tif": ("TIFF", ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F")),
    "gif": ("GIF", ("1", "L", "P", "RGB", "RGBA")),
}


def _by_mode() -> Iterator[tuple[str, bytes]]:
    for suffix, (kind, modes) in _MODES.items():
        for mode in modes:
            yield f"mode_{mode.replace(';', '')}.{suffix}", encoded(_mode(mode), kind)


def _by_encoding() -> Iterator[tuple[str, bytes]]:
    base = _base()
    for subsampling in (0, 1, 2):
        yield f"subsampling_{subsampling}.jpg", encoded(base, "JPEG", subsampling=subsampling, quality=60)
    yield "progressive.jpg", encoded(base, "JPEG", progressive=True, optimize=True)
    yield "lossless.webp", encoded(_mode("RGBA"), "WEBP", lossless=True, exact=True)
    for bits in (1, 2, 4):
        yield f"bits_{bits}.png", encoded(base.quantize(1 << bits), "PNG", bits=bits)
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield f"{compression}.tif", encoded(base, "TIFF", compression=compression)
    for compression in ("group3", "group4", "tiff_ccitt"):
        yield f"{compression}.tif", encoded(_mode("1"), "TIFF", compression=compression)
    yield "strips.tif", encoded(base, "TIFF", compression="tiff_lzw", strip_size=64)
    yield "not_interlaced.gif", encoded(base.convert("P"), "GIF", interlace=0)


def _by_transparency() -> Iterator[tuple[str, bytes]]:
    colours = _base().quantize(16)
    yield "one_clear_colour.png", encoded(colours, "PNG", transparency=3)
    yield "clear_colours.png", encoded(colours, "PNG", transparency=bytes(range(0, 256, 16)))
    yield "one_clear_level.png", encoded(_mode("L"), "PNG", transparency=int(np.asarray(_mode("L"))[4, 4]))
    yield "one_clear_rgb.png", encoded(_base(), "PNG", transparency=tuple(map(int, np.asarray(_base())[4, 4])))
    yield (
        "one_clear_deep_level.png",
        with_chunk(encoded(_deep(), "PNG"), b"tRNS", struct.pack(">H", int(np.asarray(_deep())[4, 4]))),
    )
    yield "clear_colour.gif", encoded(colours, "GIF", transparency=3)


def _by_orientation() -> Iterator[tuple[str, bytes]]:
    for turn in range(10):  # 1 to 8 are defined
        exif = Image.Exif()
        exif[0x0112] = turn
        for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")):
            yield f"turn_{turn}.{suffix}", encoded(_base(), kind, exif=exif)
        yield f"turn_{turn}.tif", encoded(_base(), "TIFF", tiffinfo={0x0112: turn})
    yield (
        "turn_is_text.jpg",
        encoded(_base(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0"),
    )
    yield "exif_is_torn.jpg", encoded(_base(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12")


def _by_profile() -> Iterator[tuple[str, bytes]]:
    for name, profile in {
        "rgb": _profile(b"RGB "),
        "grey": _profile(b"GRAY"),
        "cmyk": _profile(b"CMYK"),
        "large": _profile(b"RGB ", (1 << 20) + 1),
        "short": b"RGB",
    }.items():
        for suffix, kind in (("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP"), ("tif", "TIFF")):
            yield f"profile_{name}.{suffix}", encoded(_base(), kind, icc_profile=profile)


def _by_frames() -> Iterator[tuple[str, bytes]]:
    others = [ImageOps.invert(_base()), ImageOps.mirror(_base())]
    for suffix, kind in (("gif", "GIF"), ("webp", "WEBP"), ("tif", "TIFF"), ("png", "PNG"), ("jpg", "MPO")):
        yield f"frames.{suffix}", encoded(_base(), kind, save_all=True, append_images=others)
    rows = [(1, _HEIGHT), (_WIDTH, 1), (1, 1), (2, 300), (300, 2)]
    for width, height in rows:
        yield f"size_{width}x{height}.png", encoded(_base().resize((width, height)), "PNG")


def _by_text() -> Iterator[tuple[str, bytes]]:
    for name, text in {"empty": "", "nan": '{"eps": NaN}', "list": "[]", "deep": "[" * 5000, "word": "cat"}.items():
        info = PngImagePlugin.PngInfo()
        info.add_itxt(CHUNK_KEY, text)
        yield f"record_{name}.png", encoded(_base(), "PNG", pnginfo=info)


def _cut_short() -> Iterator[tuple[str, bytes]]:
    for suffix, (kind, _) in _MODES.items():
        whole = encoded(_base(), kind)
        for share in (0, 1, 5, 25, 50, 90, 99):
            yield f"cut_at_{share}.{suffix}", whole[: len(whole) * share // 100]


@cache
def _corpus() -> Mapping[str, bytes]:
    """Return every picture, by its file name."""
    parts = (_by_mode, _by_encoding, _by_transparency, _by_orientation, _by_profile, _by_frames, _by_text, _cut_short)
    return {name: data for part in parts for name, data in part()}


def _as_pil_reads(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None] | None:
    """Return the upright levels and the alpha of a file; None if it cannot be read, or is deeper than 16 bits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(path) as opened:
                opened.load()
                deep = opened.mode.startswith("I") and opened.format in ("PNG", "TIFF")
                if opened.mode == "F" or (opened.mode == "I" and opened.format != "PNG"):
                    return None
                clear = opened.info.get("transparency")
                turn = opened.getexif().get(0x0112)
                picture = ImageOps.exif_transpose(opened) if turn in range(2, 9) else opened
                if deep:
                    levels = np.asarray(picture).astype(np.float64)
                    grey = np.floor(levels / 257 + 0.5).astype(np.uint8)
                    alpha = None if clear is None else np.where(levels == clear, 0, 255).astype(np.uint8)
                    return np.stack([grey] * 3, axis=2), alpha
                alpha = np.asarray(picture.convert("RGBA"))[:, :, 3] if picture.has_transparency_data else None
                return np.asarray(picture.convert("RGB")), alpha
        except Exception:  # any error of PIL's means that the file is broken
            return None


def _verdict(classifier: Classifier, levels: npt.NDArray[np.uint8]) -> int:
    """Return the class of a picture by torchvision's preprocessing and a product of matrices."""
    steps = transforms.Compose(
        [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor(), transforms.Normalize(0.5, 0.5)]
    )
    return int((weight_of(classifier) @ steps(Image.fromarray(levels)).flatten()).argmax())


def test_every_picture_is_attacked_and_keeps_the_promise_or_is_refused(
    tmp_path: Path, cli: Cli, quick: Classifier
) -> None:
    # Those that hold a text under advimg's key are taken for outputs, and never as photos.
    made = {name: data for name, data in _corpus().items() if not name.startswith("record_")}
    for name, data in made.items():
        write(tmp_path / "photos" / name, data)
    ran = cli("batch", "photos", "-t", "3", "-O", "out", "--refine", "4", "-q")
    assert ran.code == 1  # some are broken
    assert "Traceback" not in ran.err
    records = {Path(record["source"]).name: record for record in records_of(tmp_path / "out")}
    assert records.keys() == made.keys()
    for name, record in records.items():
        expected = _as_pil_reads(tmp_path / "photos" / name)
        assert (record["error"] is None) == (expected is not None), (name, record["error"])
        if expected is None:
            assert len(record["error"].splitlines()) == 1
            continue
        before, alpha = expected
        with Image.open(record["outputs"]["adversarial"]) as png:
            after = np.asarray(png.convert("RGB"))
            kept = np.asarray(png)[:, :, 3] if png.mode == "RGBA" else None
            profile = png.info.get("icc_profile")
        assert after.shape == before.shape, name
        assert np.abs(after.astype(int) - before).max() <= EPS, name
        assert profile == (_profile(b"RGB ") if name.startswith("profile_rgb") else None), name
        assert (alpha is None) == (kept is None), name
        assert alpha is None or kept is None or np.array_equal(alpha, kept), name
        assert record["fooled"] == (_verdict(quick, after) == 3), name
    reached = sum(record["fooled"] is True for record in records.values())
    assert reached >= 100


_TOKENS = (
    *(b"\0", b"\xff", b"\xff\xfe", b'"', b"'", b"{", b"[[", b"]", b",", b"=", b"#", b"\n", b"\r", b"\t"),
    *(b"1e999", b"NaN", b"-1", b"null", b"true", b"0x", b"\\ud800", b"9" * 400, b"\xe2\x80\xa8", b"\x1b[2J"),
)

_damage = st.lists(
    st.tuples(
        st.integers(0, 1 << 20),
        st.one_of(st.binary(max_size=4), st.sampled_from(_TOKENS)),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=6,
)
"""Places, what is written there, and how many bytes it replaces."""


def _damaged(data: bytes, changes: Sequence[tuple[int, bytes, int]]) -> bytes:
    for place, written, removed in changes:
        at = place % (len(data) + 1)
        data = data[:at] + written + data[at + removed :]
    return data


@contextmanager
def _refused_with_one_line() -> Iterator[None]:
    """Allow an ``AdvimgError`` of one line that is not too long to read; every other error is a failure."""
    refused = None
    try:
        yield
    except AdvimgError as error:
        refused = str(error)
    assert refused is None or (len(refused.splitlines()) == 1 and len(refused) < 1000)


@settings(max_examples=3000)
@given(st.integers(0, 1 << 20), _damage)
def test_a_damaged_picture_is_read_or_refused(number: int, changes: list[tuple[int, bytes, int]]) -> None:
    whole = [name for name in sorted(_corpus()) if "large" not in name and "cut" not in name]
    name = whole[number % len(whole)]
    data = _damaged(_corpus()[name], changes)
    photos = []
    with warnings.catch_warnings(), _refused_with_one_line():
        warnings.simplefilter("ignore")  # PIL's, which the command line shows as lines
        photos.append(decode_photo(data, source=name, max_pixels=100_000))
    for photo in photos:
        width, height = photo.size
        assert photo.levels.shape == (height, width, 3)
        assert photo.levels.dtype == np.uint8
        assert photo.alpha is None or photo.alpha.shape == (height, width)
        with suppress(AdvimgError):
            read_chunk(photo.chunk)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos and their results, which no test changes."""
    folder = tmp_path_factory.mktemp("results")
    save_photos(folder / "photos", 3)
    advimg.batch(folder / "photos", 3, out_dir=folder / "out", model=quick_classifier(), refine=4, device="cpu")
    return folder


def _read_journal(path: Path) -> None:
    path.rename(path.with_name("results.jsonl"))
    read_records(path.parent, warn=_one_line)
    with Journal.opened(path.parent, warn=_one_line) as journal:
        kept = set(journal.entries)
    with Journal.opened(path.parent, warn=_one_line) as journal:
        assert set(journal.entries) == kept


def _one_line(text: str) -> None:
    assert len(text.splitlines()) == 1


def _read_model(path: Path) -> None:
    ModelSpec.of(str(path)).given_labels()


def _run(*arguments: object) -> None:
    """Run a command; whatever ends it but an exit code comes out."""
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if ran.exception is not None and not isinstance(ran.exception, SystemExit):
        raise ran.exception


def _read_config(path: Path) -> None:
    _run("labels", "--config", path)


def _read_labels(path: Path) -> None:
    ModelSpec(model="resnet18", labels=path).given_labels()


def _read_pairs(path: Path) -> None:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
        read_pairs(lines, imagenet_labels(), name=path.name)


def _read_list(path: Path) -> None:
    read_list(path.read_bytes().splitlines(), name=path.name)


def _read_chunk(path: Path) -> None:
    read_chunk(path.read_bytes().decode("latin-1"))


_READERS: Mapping[str, Callable[[Path], None]] = {
    "journal": _read_journal,
    "model.toml": _read_model,
    "config.toml": _read_config,
    "labels.txt": _read_labels,
    "pairs.csv": _read_pairs,
    "photos.txt": _read_list,
    "chunk.json": _read_chunk,
}


def _text(kind: str, results: Path) -> bytes:
    """Return a text as people, or the program, would write it."""
    lines = (results / "out" / "results.jsonl").read_text(encoding="ascii").splitlines()
    # Without what differs from run to run and from machine to machine, so that damage hits the same places.
    alike = {"seconds": 1.0, "environment": None}
    journal = "".join(f"{json.dumps(json.loads(line) | alike)}\n" for line in lines).encode("ascii")
    return {
        "journal": journal,
        "model.toml": b'model = "resnet18"\nlabels = ["cat", "dog"]\nmean = [0.5, 0.5, 0.5]\nresize = 256\n',
        "config.toml": b'eps = 4\nquiet = true\nmodel = ["resnet50"]\n\n[attack]\nsteps = 50\n',
        "labels.txt": "cat\ndog\nf\u00e9lin\n".encode(),
        "pairs.csv": b'path,target,eps\na.jpg,pelican,4\n"b, c.jpg",281,auto\n',
        "photos.txt": b"a.jpg\nb.jpg\n",
        "chunk.json": journal.splitlines()[0],
    }[kind]


@pytest.mark.parametrize("kind", _READERS)
def test_a_text_without_damage_is_read(kind: str, results: Path, tmp_path: Path) -> None:
    _READERS[kind](write(tmp_path / kind, _text(kind, results)))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", _READERS)
@given(changes=_damage)
def test_a_damaged_text_is_read_or_refused(
    kind: str, changes: list[tuple[int, bytes, int]], results: Path, tmp_path: Path
) -> None:
    with TemporaryDirectory(dir=tmp_path) as folder:
        path = write(Path(folder) / kind, _damaged(_text(kind, results), changes))
        with _refused_with_one_line():
            _READERS[kind](path)


@pytest.mark.parametrize("kind", _READERS)
@pytest.mark.parametrize("token", [b"[", b'{"a":', b"a.", b"9", b'"', b"\n"], ids=["[", "{", "a.", "9", '"', "lines"])
def test_a_text_of_one_thing_many_times_is_read_or_refused(
    kind: str, token: bytes, results: Path, tmp_path: Path
) -> None:
    for start in (b"", b"model = "):
        path = write(tmp_path / kind, start + token * 20_000)
        (tmp_path / "results.jsonl").unlink(missing_ok=True)
        with _refused_with_one_line():
            _READERS[kind](path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=_damage)
def test_verify_reads_or_refuses_a_damaged_record(
    changes: list[tuple[int, bytes, int]], results: Path, tmp_path: Path, quick: Classifier
) -> None:
    adversarial = sorted((results / "out").glob("*_class_3.png"))[0]
    with Image.open(adversarial) as image:
        info = PngImagePlugin.PngInfo()
        info.add_itxt(CHUNK_KEY, _damaged(image.info[CHUNK_KEY].encode(), changes).decode("latin-1"))
        image.save(tmp_path / "damaged.png", pnginfo=info)
    with _refused_with_one_line():
        _run("verify", tmp_path / "damaged.png", "--original", results / "photos" / "p00.jpg")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=_damage)
def test_the_report_reads_or_refuses_a_damaged_journal(
    changes: list[tuple[int, bytes, int]], results: Path, tmp_path: Path
) -> None:
    with TemporaryDirectory(dir=tmp_path) as folder:
        out = Path(folder) / "out"
        shutil.copytree(results / "out", out)
        write(out / "results.jsonl", _damaged(_text("journal", results), changes))
        with _refused_with_one_line():
            _run("report", out)
