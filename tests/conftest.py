"""Photos, classifiers and a command line for all tests."""

import importlib.util
import io
import json
import os
import signal
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch is imported, here and in processes that tests start: work this small gains little from threads, and on a
# busy machine threads that wait for each other make it ten times as slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.spec import ModelSpec
from advimg.cli import run
from advimg.engine.engine import Engine
from advimg.engine.job import Job, Result
from advimg.engine.step_report import Watcher
from advimg.images.decode import photo_from_pixels
from advimg.images.photo import Photo
from advimg.record import Failure, Record
from advimg.storage import stores
from advimg.storage.url import Url

if TYPE_CHECKING:
    from tests.object_store import ObjectStore

# A shell starts what runs in its background ignoring SIGINT, which processes inherit and tests of Ctrl-C send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: a slow machine is not a failure. No database: the same examples for everyone.
settings.register_profile("advimg", deadline=None, database=None, derandomize=True)
settings.load_profile("advimg")


def sample(name: str) -> Path:
    """Return the path of one of scikit-image's sample photos."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "data" / name


@pytest.fixture(autouse=True)
def every_record_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every record that a test produces in this process against the published schema."""

    def checking(to_dict: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
        def checked(record: Any) -> dict[str, Any]:
            values = to_dict(record)
            best = jsonschema.exceptions.best_match(_schema().iter_errors(json.loads(json.dumps(values))))
            assert best is None, best
            return values

        return checked

    for kind in (Record, Failure):
        monkeypatch.setattr(kind, "to_dict", checking(kind.to_dict))


@cache
def _schema() -> jsonschema.Draft202012Validator:
    path = Path(advimg.__file__).with_name("record.schema.json")
    return jsonschema.Draft202012Validator(json.loads(path.read_bytes()))


@pytest.fixture
def coffee() -> Path:
    return sample("coffee.png")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    with Image.open(sample("chelsea.png")) as image:
        image.save(path)
    return path


@pytest.fixture
def memory() -> Iterator[Url]:
    """A folder in fsspec's store in memory, whose contents end with the test."""
    import fsspec

    files = fsspec.filesystem("memory")
    before = dict(files.store)
    yield Url("memory://bucket/folder")
    files.store.clear()
    files.store.update(before)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[ObjectStore]":
    """A store that speaks S3, one for each process of pytest-xdist whose tests ask for it."""
    from tests.object_store import object_store as run_object_store  # s3fs takes a while to import

    with pytest.MonkeyPatch.context() as patch, run_object_store(tmp_path_factory.mktemp("object-store")) as store:
        # The proxy of whoever runs the tests knows nothing of this machine's own address.
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        yield store


@pytest.fixture
def bucket(object_store: "ObjectStore", monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of the store that ``s3://`` leads to, here and in processes that the test starts."""
    for name, value in object_store.environment().items():
        monkeypatch.setenv(name, value)
    forget_file_systems()
    yield object_store.new_bucket()
    forget_file_systems()


def forget_file_systems() -> None:
    """Let go of those in this process, which remember what the environment was."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    stores.file_system.cache_clear()


@pytest.fixture(scope="session")
def lite0() -> Classifier:
    return advimg.load_classifier("efficientnet_lite0", device="cpu")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run ``advimg`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Ran(code, captured.out, captured.err)

    return call


EveryModel = Callable[..., None]


@pytest.fixture
def every_model(monkeypatch: pytest.MonkeyPatch) -> EveryModel:
    """Let every model that commands name be one classifier: ``every_model(quick)``.

    But for those that are named here: ``every_model(quick, efficientnet_lite0=lite0)``.
    """

    def become(classifier: Classifier, **others: Classifier) -> None:
        def load(model: str | ModelSpec, **options: object) -> Classifier:
            return others.get(model if isinstance(model, str) else model.model, classifier)

        monkeypatch.setattr("advimg.classifiers.load.load_classifier", load)
        monkeypatch.setattr("advimg.classifiers.load.labels_of", lambda model: load(model).labels)
        monkeypatch.setattr("advimg.classifiers.load.recorded_name", lambda model: load(model).name)

    return become


@pytest.fixture
def quick(every_model: EveryModel, lite0: Classifier) -> Classifier:
    """Return a linear classifier that is quick to fool; commands load it for every model but efficientnet_lite0."""
    from tests.batches import quick_classifier

    quick = quick_classifier()
    every_model(quick, efficientnet_lite0=lite0)
    return quick


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Write four photos of noise, 24 x 16 pixels."""
    from tests.batches import save_photos

    return save_photos(tmp_path / "photos", 4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return the output folder that commands write to; it is not there yet."""
    return tmp_path / "out"


def run_all(engine: Engine, jobs: Iterable[Job], watch: Watcher | None = None) -> list[Result]:
    """Attack photos none of which may fail."""
    ends = list(engine.run(jobs, watch=watch))
    assert all(isinstance(end, Result) for end in ends)
    return [end for end in ends if isinstance(end, Result)]


def random_photo(width: int, height: int, seed: int = 0) -> Photo:
    """Return a photo of noise."""
    levels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return photo_from_pixels(levels, source=f"noise{seed}.png")


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of a picture file in a format of Pillow's."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def with_chunk(png: bytes, name: bytes, body: bytes) -> bytes:
    """Return a PNG with one more chunk, before its pixels."""
    place = png.index(b"IDAT") - 4
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return png[:place] + chunk + png[place:]


def linear_classifier(classes: int = 2, size: int = 8, seed: int = 0, scale: float = 0.01) -> Classifier:
    """Return a linear network on the normalised pixels of a size x size preprocessing."""
    generator = torch.Generator().manual_seed(seed)
    linear = torch.nn.Linear(3 * size * size, classes)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * scale)
        linear.bias.zero_()
    return Classifier.wrap(
        torch.nn.Sequential(torch.nn.Flatten(), linear),
        labels=[f"class {index}" for index in range(classes)],
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize=size,
        crop=size,
        name="linear",
        device="cpu",
    )


def weight_of(classifier: Classifier) -> torch.Tensor:
    """Return the weight of a linear classifier, [classes, 3 * size * size]."""
    weight = dict(classifier.network.named_parameters())["1.weight"]
    return weight.detach()
