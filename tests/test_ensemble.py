"""Several networks and one file: all of them fooled, each through its own view; those that look on change nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import advimg
from advimg.attacks.base import Evaluation, normalise
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.ensemble import Ensemble
from advimg.engine.attack_state import AttackState
from advimg.engine.engine import Engine
from advimg.engine.forward import Score
from advimg.engine.job import Failed, Job
from advimg.errors import UsageError
from advimg.images.decode import photo_from_pixels
from advimg.labels import Labels
from advimg.settings import Settings
from advimg.target_names import read_target
from tests.batches import records_of
from tests.conftest import Cli, linear_classifier, random_photo, run_all
from tests.referee import judge, linf

LITE0, LITE1, LITE2 = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
BOTH = ("-m", LITE0, "-m", LITE1)
PELICAN = 144


def wrapped(classifier: Classifier, labels: list[str], *, resize: int = 8, crop: int = 8) -> Classifier:
    """Return a classifier with other labels and another preprocessing."""
    return Classifier.wrap(
        classifier.network,
        labels=labels,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        resize=resize,
        crop=crop,
        name="other",
        device="cpu",
    )


# In the command line, with real networks.


def test_one_file_fools_both_networks(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", "-e", 6, *BOTH, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    path = Path(record["outputs"]["adversarial"])
    for variant in (0, 1):
        top1, confidence = judge(path, variant)
        assert top1 == PELICAN
        assert confidence >= 0.89  # 0.9 was asked for; PIL and torchvision round differently than we do
    assert linf(path, photo) <= 6
    assert record["model"] == LITE0
    (other,) = record["ensemble"]
    assert (other["model"], other["target"], other["fooled"]) == (LITE1, {"index": PELICAN, "name": "pelican"}, True)
    assert other["after"][0]["index"] == PELICAN
    assert other["before"] != record["before"]
    assert other["view"]["crop"] == 240
    assert f"by {LITE0}" in ran.err
    assert f"by {LITE1}" in ran.err


def test_a_file_made_on_one_does_not_fool_the_other(cli: Cli, photo: Path) -> None:
    """Else the tests here would show nothing."""
    assert cli("attack", photo, "-t", "pelican", "-e", 6, "-m", LITE0, "--no-figure").code == 0
    assert judge(Path("cat_pelican.png"), 0)[0] == PELICAN
    assert judge(Path("cat_pelican.png"), 1)[0] != PELICAN


def test_a_network_that_looks_on_changes_no_byte(cli: Cli, photo: Path) -> None:
    command = ("attack", photo, "-t", "pelican", "-m", LITE0, "--json")
    alone = json.loads(cli(*command, "-O", ".").out)
    files = {name: Path(path).read_bytes() for name, path in alone["outputs"].items()}
    ran = cli(*command, "-f", "--check-on", LITE1, "--check-on", LITE2)
    assert ran.code == 0
    record = json.loads(ran.out)
    assert {name: Path(path).read_bytes() for name, path in record["outputs"].items()} == files
    assert alone["checked"] == []
    for seen, variant in zip(record["checked"], (1, 2), strict=True):
        top1, confidence = judge(Path(record["outputs"]["adversarial"]), variant)
        assert seen["after"][0]["index"] == top1
        assert seen["after"][0]["confidence"] == pytest.approx(confidence, abs=0.02)
        assert seen["fooled"] == (top1 == PELICAN)
        assert f"by {seen['model']}, which took no part" in ran.err


def test_verify_holds_a_file_against_all_that_its_record_names(cli: Cli, photo: Path) -> None:
    assert cli("attack", photo, "-t", "pelican", "-e", 6, *BOTH, "--no-figure").code == 0
    ran = cli("verify", "cat_pelican.png", "--original", photo, "--json")
    assert ran.code == 0
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [(line["model"], line["holds"]) for line in lines] == [(LITE0, True), (LITE1, True)]
    ran = cli("verify", "cat_pelican.png", "--original", photo, "--json", "-m", LITE2)
    assert ran.code == 3


def test_untargeted_every_network_leaves_the_class_it_sees(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "--untargeted", "-e", 4, "--confidence", 0.5, *BOTH, "--json", "--no-figure")
    assert ran.code == 0
    record = json.loads(ran.out)
    for variant, seen in enumerate([record, *record["ensemble"]]):
        was = judge(photo, variant)[0]
        assert seen["before"][0]["index"] == was
        assert judge(Path("cat_untargeted.png"), variant)[0] != was
    assert cli("verify", "cat_untargeted.png", "--original", photo).code == 0


def test_batch_takes_several_networks_and_goes_on(cli: Cli, photo: Path) -> None:
    command = ("batch", photo, "-t", "pelican", "-e", 6, *BOTH, "--check-on", LITE2, "-O", "out")
    ran = cli(*command)
    assert ran.code == 0, ran.err
    (record,) = records_of(Path("out"))
    assert judge(Path("out/cat_pelican.png"), 1)[0] == PELICAN
    assert [seen["model"] for seen in record["ensemble"]] == [LITE1]
    fooled = judge(Path("out/cat_pelican.png"), 2)[0] == PELICAN
    assert json.loads(Path("out/summary.json").read_bytes())["checked_fooled"] == {LITE2: int(fooled)}
    assert f"fool {LITE2}" in ran.err
    again = cli(*command)
    assert again.code == 0
    assert "1 of 1 were done by an earlier run" in again.err
    assert records_of(Path("out")) == [record]
    refused = cli(*command[:6], "-m", LITE0, "-O", "out")
    assert refused.code == 1
    assert f"model ['{LITE0}', '{LITE1}'] there, {LITE0} here" in refused.err


def test_batch_records_a_failure_with_the_networks_it_was_meant_for(cli: Cli, photo: Path) -> None:
    Path("broken.jpg").write_bytes(b"no picture")
    assert cli("batch", "broken.jpg", "-t", "pelican", *BOTH, "--check-on", LITE2, "-O", "out").code == 1
    (record,) = records_of(Path("out"))
    assert [(seen["model"], seen["after"]) for seen in record["ensemble"]] == [(LITE1, [])]
    assert [(seen["model"], seen["confidence"]) for seen in record["checked"]] == [(LITE2, None)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("-m", LITE0, "--check-on", LITE0), f"{LITE0} is both attacked and checked on; leave out one of the two"),
        (("-m", LITE0, "--check-on", "resnet5"), "unknown model 'resnet5'"),
        ((*BOTH, "--resize", "300"), "--resize with several models"),
    ],
)
def test_what_is_wrong_is_one_line(cli: Cli, photo: Path, given: tuple[str, ...], message: str) -> None:
    ran = cli("attack", photo, "-t", "pelican", *given)
    assert ran.code == 2
    (line,) = ran.err.splitlines()
    assert message in line
    assert not list(Path().glob("*_pelican*"))


def test_a_model_given_twice_is_one(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", "-m", LITE0, "-m", LITE0, "--json", "--no-figure")
    assert ran.code == 0
    assert json.loads(ran.out)["ensemble"] == []


# The arithmetic, with linear networks.


def test_gradients_are_averaged_after_normalising_each() -> None:
    """A network whose logits are a thousand times larger has no larger say."""
    quiet = linear_classifier(classes=3, size=8, seed=1, scale=0.001)
    loud = linear_classifier(classes=3, size=8, seed=2, scale=1)
    photo = random_photo(8, 8)
    state = AttackState(
        Job(photo=photo, target=1, settings=Settings(eps=8, step_size=1, momentum=0)), Ensemble([quiet, loud])
    )
    state.inputs()
    draw = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, 8, 8, generator=draw) * scale for scale in (1e-4, 1e3)]
    expected = sum((normalise(gradient.clone()) for gradient in gradients), torch.zeros(3, 8, 8))
    # Of one view each: that of the picture itself.
    views = [gradient[None] for gradient in gradients]
    state.gather(views)
    state.step([Score(0.0, 0)], Evaluation(fooled=False, log_confidence=0.0, compute_loss=lambda: 0.0))
    state.inputs()
    moved = state.candidate_levels().astype(int) - photo.levels.astype(int)
    free = (photo.levels > 0) & (photo.levels < 255)
    assert np.array_equal(moved[free], -np.sign(expected.numpy()).transpose(1, 2, 0).astype(int)[free])


def test_each_network_keeps_its_own_view() -> None:
    """Only pixels that one of the views depends on change, and those outside a smaller view for the larger alone."""
    small = linear_classifier(classes=3, size=8, seed=1, scale=0.05)
    base = linear_classifier(classes=3, size=16, seed=2, scale=0.05)
    large = wrapped(base, ["class 0", "class 1", "class 2"], resize=16, crop=16)
    narrow = wrapped(small, ["class 0", "class 1", "class 2"], resize=16, crop=8)
    photo = random_photo(20, 16)
    settings = Settings(eps=20, confidence=0.8)
    (result,) = run_all(Engine(narrow, large), [Job(photo=photo, target=1, settings=settings)])
    assert result.fooled
    assert [judgement.after.top1 for judgement in result.judgements] == [1, 1]
    assert [classifier.judge(result.levels).top1 for classifier in (narrow, large)] == [1, 1]
    changed = (result.levels != photo.levels).any(axis=2)
    assert not changed[:, :2].any()
    assert not changed[:, 18:].any()
    assert changed[0:4, 2:18].any()
    (alone,) = run_all(Engine(narrow), [Job(photo=photo, target=1, settings=settings)])
    changed = (alone.levels != photo.levels).any(axis=2)
    assert not changed[0:4].any()


def test_one_network_among_several_slots_gives_what_it_gives_alone() -> None:
    first, second = (linear_classifier(classes=4, size=8, seed=seed, scale=0.05) for seed in (1, 2))
    jobs = [Job(photo=random_photo(10 + seed, 8, seed), target=seed % 4, settings=Settings()) for seed in range(6)]
    engine = Engine(first, second, batch_size=4)
    together = {result.job: result.levels.tobytes() for result in run_all(engine, jobs)}
    alone = {job: Engine(first, second).attack(job).levels.tobytes() for job in jobs}
    assert together == alone


def test_not_fooled_unless_all_are() -> None:
    """Two networks that see the opposite of each other cannot both be fooled; one of them is not enough."""
    first = linear_classifier(classes=2, size=8, seed=1, scale=0.01)
    second = wrapped(first, ["class 1", "class 0"])
    job = Job(photo=random_photo(8, 8), target=1, settings=Settings(steps=8))
    (result,) = run_all(Engine(first, second), [job])
    assert not result.fooled
    assert sorted(judgement.fooled for judgement in result.judgements) == [False, True]


# Labels.


def test_a_class_is_meant_by_its_name_where_the_indices_differ() -> None:
    first = linear_classifier(classes=3, size=8, seed=1, scale=0.05)
    second = wrapped(linear_classifier(classes=3, size=8, seed=2, scale=0.05), ["class 2", "class 0", "class 1"])
    outcome = advimg.attack(random_photo(8, 8), "class 2", model=[first, second], eps=40)
    assert outcome.record.fooled
    assert [seen.target.index for seen in outcome.record.attacked] == [2, 0]
    assert [seen.after[0].name for seen in outcome.record.attacked] == ["class 2", "class 2"]


def test_a_class_that_one_does_not_know_is_named() -> None:
    labels, other = Labels(["cat", "dog"]), Labels(["cat", "bird"])
    assert read_target("cat", labels, {"b": other}) == 0
    assert read_target("untargeted", labels, {"b": other}) == "untargeted"
    with pytest.raises(UsageError, match=r"^b: unknown class 'dog'"):
        read_target("dog", labels, {"b": other})
    with pytest.raises(UsageError, match=r"^b has other classes than the first model"):
        read_target("random", labels, {"b": other})


def test_checks_in_python() -> None:
    first, second = (linear_classifier(classes=3, size=8, seed=seed, scale=0.05) for seed in (1, 2))
    photo = random_photo(8, 8)
    alone = advimg.attack(photo, 1, model=first)
    checked = advimg.attack(photo, 1, model=first, check_on=[second])
    assert np.array_equal(alone.levels, checked.levels)
    (seen,) = checked.record.checked
    assert seen.after[0].index == second.judge(checked.levels).top1
    assert seen.before[0].index == second.judge(photo.levels).top1


@pytest.mark.parametrize(
    ("classifiers", "message"),
    [([], "there is no classifier"), ([linear_classifier()] * 2, "a classifier is given twice")],
)
def test_a_panel_of_nothing_or_of_twins_is_refused(classifiers: list[Classifier], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        advimg.attack(random_photo(8, 8), 1, model=classifiers)


def test_logits_that_are_not_finite_fail_the_photo_whichever_network_gives_them() -> None:
    class Broken(torch.nn.Module):
        def forward(self, pictures: torch.Tensor) -> Any:
            flat = pictures.amax() == pictures.amin()
            return pictures.mean((2, 3)) / (0 if flat and pictures.grad_fn is not None else 1)

    broken = Classifier.wrap(
        Broken(), labels=["class 0", "class 1", "class 2"], mean=(0.5,) * 3, std=(0.5,) * 3, resize=8, crop=8,
        name="broken", device="cpu",
    )  # fmt: skip
    fine = linear_classifier(classes=3, size=8)
    for order in ([broken, fine], [fine, broken]):
        black = photo_from_pixels(np.zeros((8, 8, 3), np.uint8))
        (end,) = Engine(*order).run([Job(photo=black, target=1, settings=Settings())])
        assert isinstance(end, Failed)
        assert "not finite" in str(end.error)
