"""The Euclidean ball: its projection, its optimum on a linear network, and the files that keep it."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import advimg
from advimg.attacks.base import Evaluation
from advimg.attacks.pgd import BALLS, PGD, project_l2
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.errors import UsageError
from advimg.images.decode import photo_from_pixels
from advimg.images.mask import mask_for
from advimg.settings import Settings, parse_eps
from tests.batches import code_of, records_of, save_photos
from tests.conftest import Cli, EveryModel, linear_classifier, random_photo, run_all, weight_of
from tests.referee import judge, pixels

LITE0 = ("-m", "efficientnet_lite0")


def length(one: Path, other: Path) -> float:
    """Return the Euclidean distance of two files, where 255 levels are 1."""
    return float(np.sqrt(((pixels(one) - pixels(other)).astype(float) ** 2).sum())) / 255


@given(st.integers(0, 10_000), st.floats(0.01, 3000), st.floats(1, 800))
def test_a_projection_is_in_the_ball_and_the_box_rounded_or_not(seed: int, spread: float, eps: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    photo = torch.randint(0, 256, (3, 6, 7), generator=draw, dtype=torch.uint8)
    delta = project_l2(torch.randn(3, 6, 7, generator=draw) * spread, photo, eps)
    assert float(delta.double().norm()) <= eps * (1 + 1e-9)
    rounded = delta.round()
    assert float(rounded.double().norm()) <= eps
    assert float((photo + rounded).min()) >= 0
    assert float((photo + rounded).max()) <= 255


def test_what_is_inside_stays_as_it_is() -> None:
    photo = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    delta = torch.tensor([-3.0, 0.2, 7.0]).repeat(16).view(3, 4, 4)
    assert torch.equal(project_l2(delta.clone(), photo, 100), delta)


def test_a_projection_shrinks_no_more_than_it_must() -> None:
    """The length of what is written is near to the radius, where there are enough pixels of different sizes."""
    draw = torch.Generator().manual_seed(0)
    photo = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    delta = project_l2(torch.randn(3, 40, 40, generator=draw) * 50, photo, 200)
    assert float(delta.round().norm()) == pytest.approx(200, rel=0.02)


def test_a_gradient_of_nothing_moves_nothing() -> None:
    photo = torch.full((3, 2, 2), 9, dtype=torch.uint8)
    attack = PGD(photo, Settings(norm="l2", eps=5, step_size=1), 5)
    attack.update(torch.zeros(3, 2, 2), Evaluation(fooled=False, log_confidence=0.0, compute_loss=lambda: 0.0))
    candidate = torch.empty(3, 2, 2)
    attack.propose(candidate)
    assert torch.equal(candidate, photo.float())


def test_a_random_start_is_on_the_sphere_and_seeded() -> None:
    photo = torch.full((3, 20, 20), 128, dtype=torch.uint8)
    one, same, other = (
        BALLS["l2"].draw(torch.empty(3, 20, 20), photo, 300, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert float(one.norm()) == pytest.approx(300, rel=0.01)


@pytest.mark.parametrize("eps", [0.5, 1.0, 2.5])
@pytest.mark.parametrize("attack", [Settings(momentum=0.0), Settings(momentum=0.75), Settings(attack="apgd")])
def test_on_a_linear_network_the_optimum_is_reached(eps: float, attack: Settings) -> None:
    """In closed form: ε against the gradient, w / ‖w‖; whole levels cost a little of it."""
    classifier = linear_classifier(size=8, scale=0.0001, seed=3)
    photo = photo_from_pixels(np.full((8, 8, 3), 128, dtype=np.uint8))
    target = 1 - classifier.judge(photo.levels).top1
    settings = replace(attack, norm="l2", eps=eps, steps=40, confidence=0.999)
    result = Engine(classifier).attack(Job(photo=photo, target=target, settings=settings))
    weight = weight_of(classifier)
    direction = (weight[target] - weight[1 - target]).view(3, 8, 8).permute(1, 2, 0).double().numpy()
    change = result.levels.astype(float) - photo.levels
    assert np.sqrt((change**2).sum()) <= eps * 255
    best = np.sqrt((direction**2).sum()) * eps * 255
    assert 0.97 * best <= (direction * change).sum() <= best


def test_outside_the_mask_nothing_changes() -> None:
    classifier = linear_classifier(classes=3, size=8, scale=0.02)
    photo = random_photo(12, 9)
    free = np.random.default_rng(0).random((9, 12)) < 0.4
    mask = mask_for(photo, photo_from_pixels(np.repeat(free[:, :, None].astype(np.uint8) * 255, 3, axis=2)))
    settings = Settings(norm="l2", eps=3, restarts=1, steps=10, confidence=0.99)
    result = Engine(classifier).attack(Job(photo=photo, target=1, settings=settings, mask=mask))
    changed = (result.levels != photo.levels).any(axis=2)
    assert changed.any()
    assert not changed[~free].any()


def test_a_photo_gets_the_same_bytes_alone_and_in_company() -> None:
    classifier = linear_classifier(classes=4, size=8, scale=0.02)
    jobs = [
        Job(
            photo=random_photo(8, 8, seed),
            target=seed % 4,
            settings=Settings(norm="l2", eps=1.5) if seed % 2 else Settings(),
        )
        for seed in range(6)
    ]
    together = {result.job: result.levels.tobytes() for result in run_all(Engine(classifier, batch_size=4), jobs)}
    assert together == {job: Engine(classifier).attack(job).levels.tobytes() for job in jobs}


def test_the_file_is_within_the_ball(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", "--norm", "l2", "--eps", "2.5", *LITE0, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    path = Path(record["outputs"]["adversarial"])
    assert judge(path)[0] == 144
    assert length(path, photo) <= 2.5
    assert record["l2"] == pytest.approx(length(path, photo), abs=1e-5)
    assert (record["norm"], record["eps"]) == ("l2", 2.5)
    assert "length" in ran.err
    ran = cli("verify", path, "--original", photo, "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["l2"] == record["l2"]
    assert cli("verify", path, "--original", photo, "--norm", "l2", "--eps", "1").code == 3
    ran = cli("verify", path, "--original", photo, "--eps", str(record["linf"]))
    assert ran.code == 0, "an eps that is given is of L∞ unless --norm says otherwise"


def test_python_measures_the_length_too() -> None:
    classifier = linear_classifier(classes=3, size=8, scale=0.05)
    photo = random_photo(10, 8)
    outcome = advimg.attack(photo, 1, model=classifier, norm="l2", eps=2)
    distance = math.sqrt(((outcome.levels.astype(float) - photo.levels) ** 2).sum()) / 255
    assert outcome.record.l2 == pytest.approx(distance, abs=1e-6)
    assert distance <= 2
    assert advimg.verify(outcome.levels, photo, 1, eps=2, norm="l2", model=classifier).within_eps
    assert not advimg.verify(outcome.levels, photo, 1, eps=0.01, norm="l2", model=classifier).within_eps


def test_the_default_budget_of_l2_is_another(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", "--norm", "l2", *LITE0, "--json", "--no-figure")
    assert json.loads(ran.out)["eps"] == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--norm", "l2", "--eps", "auto"), "eps auto looks for whole levels; with l2 give a number"),
        (("--norm", "l2", "--eps", "0"), "out of range"),
        (("--norm", "l2", "--eps", "nan"), "out of range"),
        (("--norm", "l2", "--eps", "x"), "eps 'x' is not a number; for l2 write one like 3 or 0.5"),
        (("--eps", "0.5"), "looks like a fraction"),
        (("--eps", "0.5", "--norm", "l1"), "'l1'"),
    ],
)
def test_what_is_wrong_is_one_line(cli: Cli, photo: Path, given: tuple[str, ...], message: str) -> None:
    ran = cli("attack", photo, "-t", "pelican", *given, *LITE0)
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert message in line


def test_the_order_of_the_options_does_not_matter(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", "--eps", "2.5", "--norm", "l2", *LITE0, "--json", "--no-figure")
    assert json.loads(ran.out)["eps"] == 2.5


def test_eps_is_read_by_its_norm() -> None:
    assert parse_eps("2.5", "l2") == 2.5
    assert parse_eps("10/255") == 10
    with pytest.raises(UsageError):
        parse_eps("inf", "l2")


@pytest.fixture
def quick(every_model: EveryModel) -> None:
    every_model(linear_classifier(classes=4, size=8, scale=0.05))


@pytest.mark.usefixtures("quick")
def test_batch_takes_l2_and_goes_on(cli: Cli) -> None:
    photos = save_photos(Path("photos"), 3)
    command = ("batch", "photos", "-t", "2", "--norm", "l2", "-e", "1.5", "-O", "out")
    ran = cli(*command)
    records = records_of(Path("out"))
    assert ran.code == code_of(records)
    assert len(records) == 3
    for record in records:
        assert length(Path(record["outputs"]["adversarial"]), Path(record["source"])) <= 1.5
    assert "3 of 3 were done" in cli(*command).err
    refused = cli(*command[:4], "-e", "1", "-O", "out")
    assert refused.code == 1
    assert "(eps 1.5 there, 1 here; norm l2 there, linf here)" in refused.err
    Path("pairs.csv").write_text(f"path,target,eps\n{photos[0]},1,0.5\n")
    ran = cli("batch", "--targets", "pairs.csv", "--norm", "l2", "-O", "other")
    assert ran.code == code_of(records_of(Path("other")))
    assert records_of(Path("other"))[0]["eps"] == 0.5


@pytest.mark.usefixtures("quick")
def test_sweep_takes_l2(cli: Cli) -> None:
    save_photos(Path("photos"), 3)
    ran = cli("sweep", "photos", "-t", "2", "--norm", "l2", "-e", "2,0.25,1", "-O", "out", "--json")
    assert ran.code == 0, ran.err
    points = json.loads(ran.out)
    assert [point["eps"] for point in points] == [0.25, 1, 2]
    assert points[0]["confidence"] <= points[-1]["confidence"]
    assert json.loads(Path("out/sweep.json").read_bytes())["norm"] == "l2"
