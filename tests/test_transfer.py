"""Attacks whose networks get the picture altered by chance, so that it may fool others."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from advimg.attacks.losses import logit
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.settings import Settings
from advimg.transforms.diversity import diversified, placing
from tests.conftest import Cli, linear_classifier, random_photo, run_all, sample
from tests.referee import judge, linf

if TYPE_CHECKING:
    from advimg.engine.step_report import StepReport

BOTH = ("-m", "efficientnet_lite0", "-m", "efficientnet_lite1")
PELICAN = 144


@pytest.mark.parametrize("scale", [0.3, 0.6, 1.0, 1.37, 2.5])
@pytest.mark.parametrize("place", [0.0, 0.4, 1.0])
def test_a_placing_interpolates(scale: float, place: float) -> None:
    """A constant stays constant where the line is, and a ramp a ramp, away from the line's ends.

    A shrunk ramp only nearly: the filter's samples fall differently on each output.
    """
    length = 40
    matrix = placing(length, scale, place)
    sums = matrix.sum(dim=1)
    covered = sums > 0.5
    assert torch.allclose(sums[covered], torch.ones(int(covered.sum())))
    assert not sums[~covered].any()
    assert int(covered.sum()) == pytest.approx(min(length, length * scale), abs=1)
    ramp = (matrix @ torch.arange(length, dtype=torch.float32))[covered][3:-3]
    assert torch.allclose(ramp.diff(), torch.full((len(ramp) - 1,), 1 / scale), atol=0.2 if scale < 1 else 1e-4)


def test_a_placing_of_the_same_length_changes_nothing() -> None:
    assert torch.equal(placing(12, 1.0, 0.7), torch.eye(12))


def test_a_placing_puts_the_line_where_it_says() -> None:
    left, right = (placing(10, 0.5, place).sum(dim=1) for place in (0.0, 1.0))
    assert left.tolist() == [1.0] * 5 + [0.0] * 5
    assert right.tolist() == [0.0] * 5 + [1.0] * 5
    assert placing(10, 2.0, 0.0)[0].argmax() == 0
    assert placing(10, 2.0, 1.0)[-1].argmax() == 9


def test_what_is_left_free_is_grey_and_the_rest_keeps_its_mean() -> None:
    picture = torch.full((3, 20, 20), 200.0)
    for seed in range(40):
        values = diversified(picture, Random(seed)).flatten().tolist()
        assert all(min(abs(value - 127.5), abs(value - 200)) < 1e-3 for value in values)


def really_diversified(picture: Image.Image, draw: Random) -> Image.Image:
    """Resize a picture at random and paste it into a grey one of its own size, by whole pixels."""
    if draw.random() >= 0.8:
        return picture
    length, scale = picture.width, draw.uniform(0.6, 1.6)
    top, left = (round((length - length * scale) * draw.random()) for _ in range(2))
    if draw.random() < 0.5:
        picture = ImageOps.mirror(picture)
    side = round(length * scale)
    frame = Image.new("RGB", picture.size, (128, 128, 128))
    frame.paste(picture.resize((side, side), Image.Resampling.BILINEAR), (left, top))
    return frame


@pytest.mark.parametrize("seed", range(24))
def test_a_look_is_nearly_a_real_resize_and_paste(seed: int) -> None:
    with Image.open(sample("chelsea.png")) as image:
        picture = image.convert("RGB").crop((100, 20, 356, 276)).resize((96, 96), Image.Resampling.LANCZOS)
    real, look = (
        torch.from_numpy(np.array(each)).permute(2, 0, 1).float()
        for each in (really_diversified(picture, Random(seed)), picture)
    )
    straight, look = look, diversified(look, Random(seed))
    assert look.shape == real.shape
    assert float((look - real).abs().mean()) < 9
    assert torch.corrcoef(torch.stack([look.flatten(), real.flatten()]))[0, 1] > 0.95
    assert torch.equal(look, straight) == torch.equal(real, straight)


def test_looks_are_straight_one_time_in_five_and_mirrored_half_of_the_others() -> None:
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    looks = [diversified(picture, Random(seed)) for seed in range(400)]
    straight = sum(torch.equal(look, picture) for look in looks)
    assert 50 <= straight <= 110
    left = torch.zeros(3, 16, 16)
    left[:, :, :8] = 255
    mirrored = [
        look[:, :, 0].sum() < look[:, :, -1].sum() for look in (diversified(left, Random(s)) for s in range(400))
    ]
    assert 80 <= sum(map(bool, mirrored)) <= 210


def test_the_gradient_of_a_look_is_its_adjoint() -> None:
    """For a map that is linear but for a constant, <A x, y> - <A 0, y> = <x, A* y>."""
    draw = torch.Generator().manual_seed(0)
    picture = (torch.rand(3, 16, 16, generator=draw) * 255).requires_grad_()
    other = torch.rand(3, 16, 16, generator=draw)
    for seed in range(10):
        (gradient,) = torch.autograd.grad((diversified(picture, Random(seed)) * other).sum(), picture)
        moved = (diversified(picture, Random(seed)) - diversified(torch.zeros(3, 16, 16), Random(seed))) * other
        assert (picture * gradient).sum().item() == pytest.approx(moved.sum().item(), rel=1e-4)


def test_the_logit_loss_is_the_target_s_logit_alone() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0], [9.0, 0.0, 3.0]])
    assert logit(logits, torch.tensor([1, 2])).tolist() == [-5.0, -3.0]


def test_all_but_the_last_tenth_of_the_steps_are_taken_through_other_looks() -> None:
    """The attack does not stop before; then it ends as soon as the network itself is fooled."""
    classifier = linear_classifier(classes=3, size=16, scale=0.05)
    photo = random_photo(20, 16)
    settings = Settings(steps=30, transfer=True)
    reports: list[StepReport] = []
    (result,) = run_all(Engine(classifier), [Job(photo=photo, target=1, settings=settings)], watch=reports.append)
    assert result.fooled
    assert classifier.judge(result.levels).confidence(1) >= settings.min_confidence
    assert result.steps == 27
    assert len(reports) == result.gradients == 28
    (plain,) = run_all(Engine(classifier), [Job(photo=photo, target=1, settings=Settings(steps=30, refine=0))])
    assert plain.steps < 27
    assert not np.array_equal(plain.levels, result.levels)


def test_a_photo_gets_the_same_bytes_alone_and_in_company() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    other = linear_classifier(classes=4, size=16, seed=1, scale=0.05)
    jobs = [
        Job(photo=random_photo(20, 16, seed), target=seed % 4, settings=Settings(steps=20, transfer=seed != 2))
        for seed in range(5)
    ]
    together = {
        result.job: result.levels.tobytes() for result in run_all(Engine(classifier, other, batch_size=3), jobs)
    }
    assert together == {job: Engine(classifier, other).attack(job).levels.tobytes() for job in jobs}


def test_the_seed_decides_the_looks() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    photo = random_photo(20, 16)
    one, same, another = (
        Engine(classifier).attack(Job(photo=photo, target=2, settings=Settings(steps=20, transfer=True, seed=seed)))
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one.levels, same.levels)
    assert not np.array_equal(one.levels, another.levels)


def test_a_single_step_looks_straight() -> None:
    classifier = linear_classifier(classes=3, size=16, scale=0.05)
    # The logit's gradient does not depend on the temperature, which is another with transfer.
    settings = Settings(steps=1, step_size=5, loss="logit", refine=0)
    job = Job(photo=random_photo(20, 16), target=1, settings=replace(settings, transfer=True))
    plain = Job(photo=job.photo, target=1, settings=settings)
    assert np.array_equal(Engine(classifier).attack(job).levels, Engine(classifier).attack(plain).levels)


def test_a_file_crosses_to_a_network_that_took_no_part(cli: Cli, photo: Path) -> None:
    """With --transfer it is what it shall be to the third network; the plain attack's is not."""
    options = ("-e", 8, "--check-on", "efficientnet_lite2", "--json", "--no-figure")
    command = ("attack", photo, "-t", "pelican", *BOTH, *options)
    plain = json.loads(cli(*command).out)
    assert plain["fooled"]
    assert judge(Path("cat_pelican.png"), 2)[0] != PELICAN
    ran = cli(*command, "--transfer", "--steps", 40, "-f")
    assert ran.code == 0
    record = json.loads(ran.out)
    assert record["transfer"] is True
    assert [judge(Path("cat_pelican.png"), variant)[0] for variant in (0, 1, 2)] == [PELICAN] * 3
    assert linf(Path("cat_pelican.png"), photo) <= 8
    (seen,) = record["checked"]
    assert seen["fooled"]
