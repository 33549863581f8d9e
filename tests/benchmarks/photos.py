"""The photos that benchmarks work on: those of a folder, or the samples that come with scikit-image."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import click
from PIL import Image, ImageOps

SIZE = (500, 375)
"""Width and height that are usual in ImageNet; a portrait has them the other way round."""

# Those in scikit-image's package itself, in colour, that show everyday things.
_SAMPLES = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

photos_option = click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder of photos; by default scikit-image's samples.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")


def find_photos(folder: Path | None) -> list[Path]:
    """Return the photos of a folder, by name; scikit-image's samples if None.

    Raises:
        ClickException: there are none.
    """
    if folder is None:
        found = [path for path in (_sample_folder() / name for name in _SAMPLES) if path.is_file()]
    else:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not found:
        raise click.ClickException(f"no photos in {folder or _sample_folder()}")
    return found


def make_photos(sources: Sequence[Path], count: int, folder: Path) -> None:
    """Make so many different JPEGs of the usual size; the first of them are the same for any count.

    The sources are gone through again and again: mirrored every other time, trimmed a little more every second time.
    """
    folder.mkdir()
    for number in range(count):
        lap, position = divmod(number, len(sources))
        with Image.open(sources[position]) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
        size = SIZE if picture.width >= picture.height else SIZE[::-1]
        picture = ImageOps.fit(picture, size, bleed=0.01 * (lap // 2))
        if lap % 2:
            picture = ImageOps.mirror(picture)
        picture.save(folder / f"{number:02}_{sources[position].stem}.jpg", quality=92)


def _sample_folder() -> Path:
    # Found without importing scikit-image, which would take longer than some of the benchmarks.
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise click.ClickException("the sample photos need scikit-image; install it or give --photos")
    return Path(spec.submodule_search_locations[0]) / "data"
