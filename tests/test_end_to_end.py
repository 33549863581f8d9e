"""The promise, with the real bundled network: files on disk, judged by code that shares nothing with the attack."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from advimg.classifiers.classifier import Classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.images.decode import read_photo
from advimg.outcome import outcome_of
from advimg.settings import Settings
from tests import referee
from tests.conftest import run_all, sample

PHOTOS = ("coffee.png", "chelsea.png", "astronaut.png", "rocket.jpg")
TARGETS = (144, 937, 742)
"""Pelican, broccoli, printer."""


@pytest.mark.parametrize("eps", [10, 4, 2])
def test_every_file_is_the_target_within_eps_and_of_the_photo_s_size(
    eps: int, lite0: Classifier, tmp_path: Path
) -> None:
    jobs = [
        Job(photo=read_photo(sample(name)), target=target, settings=Settings(eps=eps))
        for name in PHOTOS
        for target in TARGETS
    ]
    results = run_all(Engine(lite0, precision="fp32", batch_size=4), jobs)
    assert len(results) == len(jobs)
    for result in results:
        outcome = outcome_of(result)
        source = Path(outcome.record.source)
        path = outcome.save(tmp_path / f"{source.stem}_{result.job.target}.png")
        top1, confidence = referee.judge(path)
        assert top1 == result.job.target
        assert confidence == pytest.approx(outcome.record.confidence, abs=1e-3)
        assert confidence > 0.899
        assert referee.linf(path, source) == outcome.record.linf <= eps
        assert outcome.record.fooled
        assert outcome.record.after[0].index == top1
        assert outcome.record.steps <= 30 + Settings().refine_steps


def test_a_jpeg_with_orientation_and_a_palette(lite0: Classifier, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(sample("chelsea.png")) as image:
        image.convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
        image.quantize(32).save(tmp_path / "palette.png")
        image.convert("L").save(tmp_path / "grey.jpg")
    jobs = [
        Job(photo=read_photo(tmp_path / name), target=144, settings=Settings())
        for name in ("turned.jpg", "palette.png", "grey.jpg")
    ]
    for result in run_all(Engine(lite0, batch_size=3), jobs):
        outcome = outcome_of(result)
        source = Path(outcome.record.source)
        path = outcome.save(source.with_suffix(".adv.png"))
        assert referee.judge(path)[0] == 144
        assert referee.linf(path, source) <= 10


def test_the_record_tells_the_truth(lite0: Classifier, tmp_path: Path) -> None:
    source = sample("coffee.png")
    result = Engine(lite0).attack(Job(photo=read_photo(source), target=144, settings=Settings(eps=4, seed=5)))
    outcome = outcome_of(result)
    path = outcome.save(tmp_path / "x.png")
    with Image.open(path) as image:
        record = json.loads(image.info["advimg"])
        assert list(image.size) == record["size"]
    assert set(record) >= {
        *("advimg", "source", "source_sha256", "size", "model", "weights_sha256", "target", "eps", "seed"),
        *("before", "after", "fooled", "confidence", "linf", "psnr", "steps", "gradients", "error"),
    }
    assert not {"outputs", "seconds", "checked"} & set(record)
    assert record["source"] == "coffee.png"
    assert record["before"][0]["name"] == "espresso"
    top1, confidence = referee.judge(source)
    assert top1 == record["before"][0]["index"]
    assert confidence == pytest.approx(record["before"][0]["confidence"], abs=1e-3)
    assert len(record["before"]) == len(record["after"]) == 5
    difference = referee.pixels(path) - referee.pixels(source)
    assert record["linf"] == abs(difference).max()
    assert record["psnr"] == pytest.approx(10 * math.log10(255**2 / (difference**2).mean()), abs=0.01)
