"""Files that survive changes: judged after the real change, by PIL and code that shares nothing with the attack."""

import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

import advimg
from advimg.attacks.refine import Refine, log_odds
from advimg.changes import Change, parse_changes
from advimg.classifiers.classifier import Classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.engine.views import MOST_VIEWS, Views
from advimg.errors import UsageError
from advimg.images.decode import read_photo
from advimg.images.encode import encode_png
from advimg.images.mask import Mask
from advimg.record_schema import read_chunk
from advimg.settings import Settings
from tests import referee
from tests.batches import assert_one_line
from tests.conftest import Cli, EveryModel, linear_classifier, random_photo, run_all, sample

LITE0 = "efficientnet_lite0"
PELICAN = 144
CAT = 282  # what is seen in the photo of the cat

Real = Callable[[Image.Image], Image.Image]


def _encoded(kind: str, **options: int) -> Real:
    def change(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        return Image.open(buffer).convert("RGB")

    return change


def _half(picture: Image.Image) -> Image.Image:
    return picture.resize((round(picture.width / 2), round(picture.height / 2)), Image.Resampling.BICUBIC)


def _nine_tenths(picture: Image.Image) -> Image.Image:
    width, height = round(picture.width * 0.9), round(picture.height * 0.9)
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


WEB: Mapping[str, Real] = {
    "jpeg:75": _encoded("JPEG", quality=75),
    "jpeg:50": _encoded("JPEG", quality=50),
    "webp:80": _encoded("WEBP", quality=80),
    "resize:0.5": _half,
    "crop:0.1": _nine_tenths,
    "resize:0.5+jpeg:75": lambda picture: _encoded("JPEG", quality=75)(_half(picture)),
}


@pytest.fixture(scope="module")
def survivor(lite0: Classifier, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, advimg.Outcome]:
    """A file that is to survive the web, with its outcome."""
    outcome = advimg.attack(sample("coffee.png"), "pelican", model=lite0, survive="web", precision="fp32")
    return outcome.save(tmp_path_factory.mktemp("survivor") / "coffee.png"), outcome


def test_the_file_is_the_target_after_each_change(survivor: tuple[Path, advimg.Outcome]) -> None:
    path, outcome = survivor
    record = outcome.record
    assert record.fooled
    assert record.survive == ",".join(WEB)
    assert [each.change for each in record.survives] == list(WEB)
    assert referee.judge(path)[0] == PELICAN
    judge = referee.Judge()
    for each in record.survives:
        seen = judge.see(WEB[each.change](referee.open_upright(path)))
        assert int(seen.argmax()) == PELICAN
        assert each.fooled
        assert each.seen.index == PELICAN
        assert each.confidence == each.seen.confidence
        assert float(seen[PELICAN]) == pytest.approx(each.confidence, abs=1e-3)
        assert each.confidence >= record.min_confidence
    assert referee.linf(path, sample("coffee.png")) == record.linf <= 10


def test_without_it_the_file_falls_after_some(lite0: Classifier, tmp_path: Path) -> None:
    path = advimg.attack(sample("coffee.png"), "pelican", model=lite0, precision="fp32").save(tmp_path / "coffee.png")
    judge = referee.Judge()
    held = [int(judge.see(change(referee.open_upright(path))).argmax()) == PELICAN for change in WEB.values()]
    assert sum(held) <= 2


def test_refinement_makes_it_less_visible(survivor: tuple[Path, advimg.Outcome], lite0: Classifier) -> None:
    _, outcome = survivor
    first = advimg.attack(sample("coffee.png"), "pelican", model=lite0, survive="web", precision="fp32", refine=0)
    assert first.record.fooled
    assert first.record.visibility is not None
    assert outcome.record.visibility is not None
    assert outcome.record.visibility.delta_e_mean < 0.7 * first.record.visibility.delta_e_mean


def test_every_view_counts_as_a_pass(survivor: tuple[Path, advimg.Outcome]) -> None:
    record = survivor[1].record
    assert record.gradients == 7 * (record.steps + 1) or record.gradients > 7 * record.steps


# With linear networks: what goes with it.

_BOTH = "mirror,resize:0.5:box"


def _seen(classifier: Classifier, levels: np.ndarray) -> list[int]:
    """Return the top-1 classes of a picture, mirrored, and halved, computed with PIL alone."""
    picture = Image.fromarray(levels)
    halved = picture.resize((round(picture.width / 2), round(picture.height / 2)), Image.Resampling.BOX)
    mirrored = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return [classifier.judge(np.asarray(each)).top1 for each in (picture, mirrored, halved)]


def test_it_goes_with_ensembles_masks_l2_and_the_least_eps() -> None:
    classifiers = [linear_classifier(classes=4, size=16, seed=seed, scale=0.05) for seed in (0, 1)]
    photo = random_photo(24, 20)
    free = np.zeros((20, 24), bool)
    free[:, :16] = True
    mask = Mask(free=free, sha256="0")
    for settings, masked in (
        (Settings(eps=20, survive=_BOTH), None),
        (Settings(eps=40, survive=_BOTH), mask),
        (Settings(eps=6.0, norm="l2", survive=_BOTH), None),
        (Settings(eps="auto", max_eps=64, survive=_BOTH), None),
    ):
        result = Engine(*classifiers).attack(Job(photo=photo, target=2, settings=settings, mask=masked))
        assert result.fooled
        for classifier, judgement in zip(classifiers, result.judgements, strict=True):
            assert _seen(classifier, result.levels) == [2, 2, 2]
            assert [each.change for each in judgement.survives] == _BOTH.split(",")
        if masked is not None:
            assert np.array_equal(result.levels[:, 16:], photo.levels[:, 16:])


def test_the_least_eps_that_survives_is_larger() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    photo = random_photo(16, 16)
    found = {
        survive: Engine(classifier).attack(
            Job(photo=photo, target=2, settings=Settings(eps="auto", max_eps=64, survive=survive, refine=0))
        )
        for survive in (None, "mirror")
    }
    assert all(result.fooled for result in found.values())
    assert found["mirror"].eps > found[None].eps
    assert [trial.reached for trial in found["mirror"].tried if trial.eps == found["mirror"].eps - 1] == [False]


def test_untargeted_files_stay_away_after_each_change() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    photo = random_photo(20, 20)
    before = classifier.judge(photo.levels).top1
    result = Engine(classifier).attack(Job(photo=photo, target="untargeted", settings=Settings(eps=20, survive=_BOTH)))
    assert result.fooled
    assert before not in _seen(classifier, result.levels)


def test_a_change_that_cannot_be_survived() -> None:
    """The best attempt, and which change it falls after: nothing that is changed is left in the corner."""
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    photo = random_photo(64, 64)
    free = np.zeros((64, 64), bool)
    free[40:, 40:] = True
    changes = "mirror,crop:0.5:0:0"
    settings = Settings(eps=60, survive=changes, steps=20)
    result = Engine(classifier).attack(Job(photo=photo, target=2, settings=settings, mask=Mask(free=free, sha256="0")))
    assert not result.fooled
    judgement = result.judgements[0]
    corner = np.ascontiguousarray(result.levels[:32, :32])
    assert np.array_equal(corner, photo.levels[:32, :32])
    assert [each.change for each in judgement.survives] == changes.split(",")
    assert not judgement.survives[1].fooled
    assert judgement.survives[1].seen.index == classifier.judge(corner).top1 != 2
    assert judgement.after.top1 == 2


def test_ranges_are_judged_at_their_ends_and_in_the_middle() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    settings = Settings(eps=30, survive="jpeg:50-95,resize:0.5-1:box")
    result = Engine(classifier).attack(Job(photo=random_photo(30, 20), target=2, settings=settings))
    assert result.fooled
    names = [each.change for each in result.judgements[0].survives]
    assert names == ["jpeg:50", "jpeg:95", "jpeg:72", "resize:0.5:box", "resize:1:box", "resize:0.75:box"]


def test_company_makes_no_difference() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    settings = Settings(eps=20, survive="mirror,jpeg:60,resize:0.5-1")
    jobs = [Job(photo=random_photo(20 + seed, 18, seed), target=2, settings=settings) for seed in range(5)]
    together = run_all(Engine(classifier, batch_size=24), jobs)
    for job, result in zip(jobs, together, strict=True):
        (alone,) = run_all(Engine(classifier, batch_size=24), [job])
        assert np.array_equal(alone.levels, result.levels)


def test_of_many_changes_the_hardest_are_drawn_more_often() -> None:
    changes = parse_changes([f"jpeg:{quality}" for quality in range(50, 62)])
    views = Views(changes)
    assert (views.most, views.cases) == (MOST_VIEWS, list(changes))
    hard, easy = changes[3], changes[7]
    views.note(hard, -6.0)
    views.note(easy, 6.0)
    drawn = [views.choose(Random(seed)) for seed in range(200)]
    assert {len(each) for each in drawn} == {MOST_VIEWS - 1}
    assert all(list(each) == sorted(each, key=changes.index) for each in drawn)
    assert sum(hard in each for each in drawn) > 190
    assert 10 < sum(easy in each for each in drawn) < 90
    assert {change for each in drawn for change in each} == set(changes)
    assert views.choose(Random(0)) == views.choose(Random(0))
    assert views.cases[0] == hard
    assert views.cases[-1] == easy


def test_ranges_are_drawn_anew_besides_their_cases() -> None:
    (change,) = parse_changes("jpeg:50-95")
    views = Views([change])
    drawn = [views.choose(Random(seed)) for seed in range(20)]
    assert all(each[:3] == change.cases() for each in drawn)
    assert len({each[3] for each in drawn}) > 10
    views.note_pass([1.0, 2.0, 3.0, -5.0])
    assert views.cases == list(change.cases())


def test_noise_is_judged_by_seeds_that_no_pass_has_seen() -> None:
    changes = parse_changes("noise:4,noise:9:500,noise:9,jpeg:50-95+noise:4")
    views = Views(changes)
    judged = [seed for case in views.cases for seed in _seeds(case) if case != changes[1]]
    assert set(judged) == {0, 500, 1000}
    passes = [views.choose(Random(number)) for number in range(40)]
    drawn = [seed for each in passes for view in each for seed in _seeds(view) if view != changes[1]]
    assert not {0, 500, 1000} & set(drawn)
    assert len(set(drawn)) == len(drawn)
    assert any(changes[1] in each for each in passes)  # the one noise that was asked for


def test_noise_alone_is_drawn_once_for_each_verdict() -> None:
    (change,) = parse_changes("noise:4")
    views = Views([change])
    assert views.most == 4
    first, second = views.choose(Random(0)), views.choose(Random(1))
    assert len(first) == len(second) == 3
    assert not set(first) & set(second)
    views.note_pass([3.0, -2.0, 1.0])
    assert views.cases[0] == change.cases()[1]


def test_files_withstand_noise_that_they_were_not_made_for() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    settings = Settings(eps=30, survive="noise:20", refine=0)
    result = Engine(classifier).attack(Job(photo=random_photo(30, 20), target=2, settings=settings))
    assert [each.change for each in result.judgements[0].survives] == ["noise:20:0", "noise:20:1000", "noise:20:500"]
    assert result.fooled


def _seeds(change: Change) -> list[object]:
    return [link.values[1] for link in change.links if link.name == "noise"]


def test_many_changes_are_survived() -> None:
    classifier = linear_classifier(classes=4, size=16, scale=0.05)
    settings = Settings(eps=30).changed(survive=[f"jpeg:{quality}" for quality in range(50, 95, 4)])
    result = Engine(classifier).attack(Job(photo=random_photo(30, 20), target=2, settings=settings))
    assert result.fooled
    assert len(result.judgements[0].survives) == 12
    assert result.gradients == MOST_VIEWS * round(result.gradients / MOST_VIEWS)


def test_the_weights_give_the_gradient_of_a_smooth_least() -> None:
    """By autograd: the gradient of -log Σ exp(-f_v), after the factor by which a step multiplies."""
    refine = Refine(torch.zeros(3, 4, 4, dtype=torch.uint8), Settings(), 10)
    logits = torch.tensor([1.3, -0.4, 2.2], dtype=torch.float64, requires_grad=True)
    log_confidences = torch.nn.functional.logsigmoid(logits)  # so that the log-odds are the logits
    values: list[float] = log_confidences.tolist()
    weights = torch.tensor(refine.weigh(values), dtype=torch.float64)
    (loss_gradient,) = torch.autograd.grad(-(weights * log_confidences).sum(), logits, retain_graph=True)
    got = loss_gradient * -(1 + math.exp(log_odds(min(values))))
    (expected,) = torch.autograd.grad(-torch.logsumexp(-logits, 0), logits)
    assert torch.allclose(got, expected, atol=1e-9)
    assert refine.weigh([-0.3]) == [1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [("resize:0.01", "resize:0.01 leaves less than a pixel"), ("crop:0.99", "crop:0.99 leaves less than a pixel")],
)
def test_a_change_of_which_nothing_is_left(change: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        advimg.attack(random_photo(20, 18), 1, model=linear_classifier(), survive=change)


# The command line.


def test_attack_says_what_holds(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", "-m", LITE0, "--survive", "jpeg:75,mirror", "--refine", "2")
    assert ran.code == 0
    (line,) = (line for line in ran.err.splitlines() if "holds after" in line)
    assert line.strip().startswith("holds after jpeg:75 (")
    assert ", mirror (" in line
    record = read_chunk(read_photo("cat_pelican.png").chunk)
    assert record is not None
    assert [each.fooled for each in record.survives] == [True, True]

    # The promise is read from the file's record, changes included.
    ran = cli("verify", "cat_pelican.png", "--original", photo, "--json")
    assert ran.code == 0
    assert [each["change"] for each in json.loads(ran.out)["survives"]] == ["jpeg:75", "mirror"]
    assert "ok  after mirror" in ran.err


def test_attack_says_what_falls(cli: Cli, photo: Path) -> None:
    ran = cli(
        *("attack", photo, "-t", "pelican", "-m", LITE0, "--eps", 2, "--steps", 8, "--no-figure", "--json"),
        *("--survive", "jpeg:90,resize:0.1"),
    )
    assert ran.code == 3
    record = json.loads(ran.out)
    assert not record["fooled"]
    assert [(each["change"], each["fooled"]) for each in record["survives"]][1] == ("resize:0.1", False)
    assert "falls after resize:0.1: " in ran.err
    assert "not after" in ran.err
    assert Path("cat_pelican.png").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing", "unknown change 'nothing': use jpeg"),
        ("jpeg:0", "the quality must be"),
        ("resize:0", "the factor must be"),
        ("resize:0.5+", "a change is missing beside a +"),
        ("resize:0.001", "leaves less than a pixel"),
    ],
)
def test_bad_changes_are_one_line(cli: Cli, photo: Path, spec: str, message: str) -> None:
    for arguments in (
        ("attack", photo, "-t", "pelican", "-m", LITE0, "--survive", spec),
        ("verify", photo, "--original", photo, "-t", "pelican", "-e", "4", "-m", LITE0, "--after", spec),
    ):
        ran = cli(*arguments)
        assert_one_line(ran, 2)
        assert message in ran.err
    assert not list(Path().glob("*pelican*"))


def test_verify_holds_any_file_against_changes(cli: Cli, photo: Path) -> None:
    """Somebody else's file: the photo itself, as its own top-1."""
    given = ("verify", photo, "--original", photo, "-t", "tiger cat", "-e", "4", "-m", LITE0)
    ran = cli(*given, "--after", "jpeg:50,resize:0.5", "--json")
    judge = referee.Judge()
    seen = [judge.see(WEB[change](referee.open_upright(photo))) for change in ("jpeg:50", "resize:0.5")]
    told = json.loads(ran.out)
    assert [each["fooled"] for each in told["survives"]] == [int(each.argmax()) == CAT for each in seen]
    confidences = [each["confidence"] for each in told["survives"]]
    assert confidences == pytest.approx([float(each[CAT]) for each in seen], abs=1e-3)
    assert ran.code == (0 if all(each["fooled"] for each in told["survives"]) else 3)
    ran = cli(*given, "--after", "resize:0.02")
    assert ran.code == 3
    assert "NO  after resize:0.02" in ran.err
    assert "the promise does not hold" in ran.err


def test_untargeted_files_may_be_another_class_after_each_change(cli: Cli, every_model: EveryModel) -> None:
    """A network of brightness: the file is the bright class, and darkened the dark one; the photo is the middle one."""
    every_model(_of_brightness())
    Image.new("RGB", (20, 20), (150,) * 3).save("grey.png")
    ran = cli(
        *("attack", "grey.png", "--untargeted", "--eps", 90, "--survive", "brightness:0.3", "--confidence", 0.5),
        *("-m", "resnet18", "--no-figure", "--no-perturbation"),
    )
    assert ran.code == 0
    ran = cli("verify", "grey_untargeted.png", "--original", "grey.png", "-m", "resnet18", "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert (told["target"]["name"], told["left"]["name"]) == ("bright", "grey")
    (survival,) = told["survives"]
    assert (survival["seen"]["name"], survival["fooled"]) == ("dark", True)
    assert "ok  not grey " in ran.err

    # As the class of the file it does not hold after the change, and as the photo itself it has not left its class.
    assert cli("verify", "grey_untargeted.png", "--original", "grey.png", "-m", "resnet18", "-t", "bright").code == 3
    ran = cli("verify", "grey.png", "--original", "grey.png", "-t", "untargeted", "-e", 1, "-m", "resnet18")
    assert (ran.code, "NO  not grey " in ran.err) == (3, True)


def test_an_untargeted_record_names_the_class_that_is_seen() -> None:
    classifier, photo = _of_brightness(), np.full((20, 20, 3), 150, np.uint8)
    made = advimg.attack(photo, "untargeted", model=classifier, eps=90, confidence=0.5)
    for name, differs in (("bright", ()), ("dark", ("class dark in the record, bright here",))):
        chunk = json.loads(made.record.to_chunk())
        chunk["target"] = {"index": classifier.labels.find(name), "name": name}
        file = encode_png(made.levels, chunk=json.dumps(chunk))
        found = advimg.verify(file, photo, "untargeted", eps=90, model=classifier)
        assert (found.record_differs, found.holds) == (differs, not differs)


def _of_brightness() -> Classifier:
    """Return a network of the mean level: that of dark pictures, of grey ones, of bright ones."""
    linear = torch.nn.Linear(3 * 8 * 8, 3)
    centres = torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        linear.weight.copy_((40 * centres / (3 * 8 * 8))[:, None].expand(3, 3 * 8 * 8))
        linear.bias.copy_(-20 * centres**2)
    network = torch.nn.Sequential(torch.nn.Flatten(), linear)
    return Classifier.wrap(
        network, labels=["dark", "grey", "bright"], mean=(0,) * 3, std=(1,) * 3, resize=8, crop=8, device="cpu"
    )


def test_a_folder_has_one_list_of_changes(cli: Cli, photo: Path) -> None:
    given = ("batch", photo, "-t", "pelican", "-m", LITE0, "-O", "out", "--refine", "0", "--no-perturbation")
    assert cli(*given, "--survive", " JPEG:75 , mirror").code == 0
    (record,) = map(json.loads, Path("out/results.jsonl").read_text(encoding="utf-8").splitlines())
    assert (record["survive"], record["fooled"]) == ("jpeg:75,mirror", True)
    assert [each["change"] for each in record["survives"]] == ["jpeg:75", "mirror"]
    written = Path("out/results.jsonl").read_bytes()
    assert cli(*given, "--survive", "jpeg:75,mirror").code == 0
    assert Path("out/results.jsonl").read_bytes() == written
    other = cli(*given)
    assert_one_line(other, 1)
    assert "survive" in other.err


def test_check_on_tells_of_changes_too(cli: Cli, photo: Path) -> None:
    ran = cli(
        *("attack", photo, "-t", "pelican", "-m", LITE0, "--check-on", "efficientnet_lite2", "--refine", "0"),
        *("--survive", "jpeg:75", "--json", "--no-figure"),
    )
    assert ran.code == 0
    (checked,) = json.loads(ran.out)["checked"]
    assert [each["change"] for each in checked["survives"]] == ["jpeg:75"]
    assert checked["fooled"] == (checked["after"][0]["index"] == PELICAN and checked["survives"][0]["fooled"])


def test_cases_are_what_change_says() -> None:
    change: Change
    (change,) = parse_changes("mirror")
    assert Views([change]).cases == [change]
    assert Views([]).count == Views([]).most == 1
