"""``--worst-case``: several attacks on each photo, one after the other."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import advimg
from advimg.attacks.base import Evaluation
from advimg.batches.options import Options
from advimg.batches.worst_case import WorstCase
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.engine.criterion import Judgement
from advimg.engine.job import Failed, Job, Result
from advimg.errors import ClassifierError, UsageError
from advimg.labels import Labels
from advimg.record import Prediction, Survival
from advimg.registry import ATTACKS
from advimg.settings import Settings
from tests.attacks import Shifted
from tests.batches import COMMAND, assert_kept, assert_one_line, by_source, quick_classifier, records_of, sha256
from tests.conftest import Cli, random_photo


class _Still(Shifted):
    """Never moves further than its reach, by the sign of the gradient."""

    reach = 0

    def update(self, gradient: Tensor, evaluation: Evaluation) -> None:
        assert not evaluation.fooled
        self._delta = (self.photo - self.reach * gradient.sign()).clamp(0, 255) - self.photo
        self.steps += 1


class _Timid(_Still):
    reach = 1


@pytest.fixture(autouse=True)
def weak_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register two attacks that fail: ``still`` at any eps, ``timid`` by little."""
    list(ATTACKS.values())  # so that their modules are imported, which happens once
    for name in ("_modules", "_things"):
        monkeypatch.setattr(ATTACKS, name, dict(getattr(ATTACKS, name)))
    ATTACKS.register("still")(_Still)
    ATTACKS.register("timid")(_Timid)


def attacked(photos: list[Path], folder: Path, *worst_case: str, **given: Any) -> dict[str, dict[str, Any]]:
    """Attack photos that do not show class 3, and return the records by photo."""
    options = {"eps": 10, "confidence": 0.9, "steps": 10, "metadata": False} | given
    advimg.batch(photos, 3, out_dir=folder, model=quick_classifier(), worst_case=worst_case, **options)
    return by_source(folder)


def test_the_first_attack_that_succeeds_is_the_last(photos: list[Path], tmp_path: Path) -> None:
    alone = attacked(photos, tmp_path / "alone", attack="pgd")
    still = attacked(photos, tmp_path / "still", attack="still")
    assert all(record["fooled"] for record in alone.values())
    assert not any(record["fooled"] for record in still.values())
    assert_kept(tmp_path / "alone", quick_classifier())
    ended = attacked(photos, tmp_path / "both", "still", "pgd", "apgd")
    assert_kept(tmp_path / "both", quick_classifier())
    for name, record in ended.items():
        assert (record["fooled"], record["attack"]) == (True, "pgd")
        assert record["worst_case"] == ["still", "pgd", "apgd"]
        assert record["gradients"] == still[name]["gradients"] + alone[name]["gradients"]
        # Its file is that of the attack alone.
        assert record["adversarial_sha256"] == alone[name]["adversarial_sha256"]
    first = attacked(photos, tmp_path / "first", "pgd", "still")
    assert all(record["gradients"] == alone[name]["gradients"] for name, record in first.items())


def test_if_none_succeeds_the_best_attempt_is_kept(photos: list[Path], tmp_path: Path) -> None:
    timid = attacked(photos, tmp_path / "timid", attack="timid")
    assert not any(record["fooled"] for record in timid.values())
    for number, order in enumerate((("still", "timid"), ("timid", "still"))):
        for name, record in attacked(photos, tmp_path / str(number), *order).items():
            assert (record["fooled"], record["attack"]) == (False, "timid")
            assert record["confidence"] == timid[name]["confidence"]
            assert record["gradients"] == 2 * timid[name]["gradients"]


def test_photos_that_share_passes_take_their_own_turns(photos: list[Path], tmp_path: Path) -> None:
    """With one photo a pass the same photos need the same attacks as with all at once."""
    given = {"eps": 1, "confidence": 0.0, "steps": 3}
    folders = {
        size: attacked(photos, tmp_path / str(size), "still", "pgd", batch_size=size, **given) for size in (1, 4)
    }
    for name, record in folders[1].items():
        for key in ("attack", "fooled", "gradients", "adversarial_sha256"):
            assert record[key] == folders[4][name][key]


def seen(sure: float, *changed: float, before: int = 0, target: int = 1) -> Judgement:
    """Return what a network sees that is so sure of class 1, of two, in the file and after changes."""
    labels = Labels(["one", "two"])
    survives = tuple(
        Survival(f"jpeg:{number + 1}", share >= 0.5, Prediction(1, "two", share), share)
        for number, share in enumerate(changed)
    )
    after = Verdict(torch.tensor([1 - sure, sure]), labels)
    first = Verdict(torch.tensor([1.0 - before, float(before)]), labels)
    fooled = sure >= 0.5 and all(each.fooled for each in survives)
    return Judgement(cast("Classifier", None), first, after, target, fooled, survives)


def attempt(attack: str, *judgements: Judgement, target: Any = 1) -> Result:
    job = Job(photo=random_photo(8, 8, 0), target=target, settings=Settings(attack=attack))
    return Result(
        job=job,
        levels=job.photo.levels,
        eps=1,
        tried=(),
        judgements=judgements,
        steps=1,
        gradients=2,
        seconds=1,
        precision="fp32",
    )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        # One network, as many changes more.
        ((seen(0.9, 0.9, 0.9, 0.2),), (seen(0.99, 0.99, 0.4, 0.4),)),
        ((seen(0.4, 0.6, 0.6),), (seen(0.99, 0.4, 0.4),)),
        # As many, but surer where it is least sure.
        ((seen(0.6, 0.6, 0.4),), (seen(0.99, 0.99, 0.1),)),
        # Several networks.
        ((seen(0.9, 0.2), seen(0.9, 0.8)), (seen(0.9, 0.8), seen(0.3, 0.4))),
    ],
)
def test_the_best_attempt_meets_the_criterion_most_often(
    better: tuple[Judgement, ...], worse: tuple[Judgement, ...]
) -> None:
    for order in ((better, worse), (worse, better)):
        turns = WorstCase(["pgd", "apgd"])
        following = turns.after(attempt("pgd", *order[0]), "photo")
        assert isinstance(following, Job)
        assert following.settings.attack == "apgd"
        best = turns.after(attempt("apgd", *order[1]), "photo")
        assert isinstance(best, Result)
        assert best.judgements == better
        assert best.gradients == 4


def test_without_a_target_the_best_attempt_is_least_sure_of_the_first_class() -> None:
    """The other class that came nearest says nothing: its confidence may fall where there are many."""
    labels = Labels(["one", "two", "three"])
    before = Verdict(torch.tensor([1.0, 0, 0]), labels)

    def left(*shares: float) -> Judgement:
        return Judgement(cast("Classifier", None), before, Verdict(torch.tensor(shares), labels), 1, fooled=False)

    better, worse = left(0.4, 0.3, 0.3), left(0.55, 0.35, 0.1)
    turns = WorstCase(["pgd", "apgd"])
    turns.after(attempt("pgd", better, target="untargeted"), "photo")
    best = turns.after(attempt("apgd", worse, target="untargeted"), "photo")
    assert isinstance(best, Result)
    assert best.judgements == (better,)


def test_an_attack_that_fails_later_costs_no_attempt() -> None:
    turns = WorstCase(["pgd", "apgd", "pgd"])
    first = attempt("pgd", seen(0.2))
    failed = Failed(attempt("apgd").job, ClassifierError("out of memory"))
    assert turns.after(failed, "other") is failed  # the first: the photo is not put to the test
    turns.after(first, "photo")
    following = turns.after(failed, "photo")
    assert isinstance(following, Job)
    assert following.settings.attack == "pgd"
    assert turns.after(failed, "photo") is first


@pytest.mark.usefixtures("quick")
def test_a_folder_goes_on_with_the_same_attacks_only(cli: Cli, photos: list[Path], out: Path) -> None:
    command = (*COMMAND, "--worst-case", "still,pgd")
    (photos[0].parent / "broken.jpg").write_bytes(b"")
    assert cli(*command).code == 1
    hashes = {record["source"]: record["adversarial_sha256"] for record in records_of(out)}
    assert {record["attack"] for record in records_of(out) if not record["error"]} == {"pgd"}
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["worst_case"], summary["attack"]) == (["still", "pgd"], "still")
    ran = cli(*command)
    assert "5 of 5 were done by an earlier run" in ran.err
    for other, there in (
        ((), "attack still,pgd there, pgd here"),
        (("--worst-case", "pgd"), "still,pgd there, pgd here"),
    ):
        ran = cli(*COMMAND, *other)
        assert ran.code == 1
        assert there in ran.err
    (out / "p00_class_3.png").unlink()
    assert cli(*command).code == 1
    assert {record["source"]: record["adversarial_sha256"] for record in records_of(out)} == hashes
    assert sha256(out / "p00_class_3.png") == hashes[str(photos[0])]


@pytest.mark.usefixtures("quick")
def test_a_sweep_takes_turns_at_each_eps(cli: Cli, photos: list[Path], out: Path) -> None:
    ran = cli("sweep", "photos", "-t", "3", "-e", "1,10", "--worst-case", "still,pgd", "--json", "-O", "out")
    assert ran.code == 0, ran.err
    assert [point["verified"] for point in json.loads(ran.out)][1] == 4
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    assert {record["attack"] for record in records_of(folder) if record["eps"] == 10} == {"pgd"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("command", [COMMAND, ("sweep", *COMMAND[1:])])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pgd,cw", "unknown attack 'cw': use pgd, apgd"),
        ("pgd,", "unknown attack ''"),
        ("pgd,apgd,pgd", "worst case: pgd is named twice"),
    ],
)
def test_wrong_names_are_one_line(
    cli: Cli, photos: list[Path], out: Path, command: tuple[str, ...], given: str, message: str
) -> None:
    assert_one_line(cli(*command, "--worst-case", given), 2, message)
    assert not out.exists()
    assert_one_line(cli(*command, "--worst-case", "pgd", "--attack", "apgd"), 2, "leave out --attack")


def test_options_name_attacks_that_there_are() -> None:
    assert Options(settings=Settings(attack="apgd"), worst_case=("pgd", "apgd")).settings.attack == "pgd"
    with pytest.raises(UsageError, match="unknown attack 'cw'"):
        Options(settings=Settings(), worst_case=("cw",))
