"""The command line on several models: which there are, what they see, and targets by rule."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.spec import ModelSpec
from advimg.errors import ClassifierError
from advimg.models import Models
from tests.batches import code_of
from tests.conftest import Cli, linear_classifier, random_photo
from tests.referee import judge

LITE0 = "efficientnet_lite0"


@pytest.fixture
def small(tmp_path: Path) -> str:
    """Return the name of a TOML file of a small network of five classes."""
    torch.manual_seed(0)
    torch.save(models.squeezenet1_1(weights=None, num_classes=5).state_dict(), tmp_path / "five.pt")
    (tmp_path / "small.toml").write_text('model = "squeezenet1_1"\nweights = "five.pt"\ninput_size = 64\n')
    return "small.toml"


def one_line(err: str) -> str:
    (line,) = err.splitlines()
    return line


# advimg models.


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which torch keeps weights; that of Hugging Face's hub is as empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_models_lists_the_bundled_first_and_then_torchvision_s(cli: Cli, caches: Path) -> None:
    ran = cli("models", "-q")
    assert (ran.code, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert re.split(r"\s{2,}|\s(?=params)", header) == ["name", "input", "params", "top-1", "on disk"]
    assert [row.split()[0] for row in rows[:3]] == [LITE0, "efficientnet_lite1", "efficientnet_lite2"]
    assert re.fullmatch(r"efficientnet_lite0 +224 +4\.7 M +75\.1 %  yes", rows[0])
    assert len({len(row.split("%")[0]) for row in rows}) == 1  # the columns stand below each other
    names = [row.split()[0] for row in rows[3:]]
    assert names == [
        f"{name}:{weights.name}"
        for name in models.list_models(module=models)
        for weights in models.get_model_weights(name)
    ]
    assert not any(row.endswith("yes") for row in rows[3:])


def test_models_without_a_query_tell_of_sources_and_of_weights_on_disk(cli: Cli, caches: Path) -> None:
    (caches / "resnet50-0676ba61.pth").touch()
    ran = cli("models")
    assert ran.out == cli("models", "-q").out
    sources, on_disk = ran.err.splitlines()
    assert sources.startswith("sources: the names above; ")
    for prefix in ("clip:", "hf-hub:", "hf:", "open_clip/", "timm/"):
        assert f"; {prefix}NAME, listed by `advimg models {prefix}`; " in sources
    assert sources.endswith("; your own as NET.onnx, FILE.toml, or NAME with --weights FILE")
    lites = "efficientnet_lite0, efficientnet_lite1, efficientnet_lite2"
    assert on_disk == f"on disk: {lites}, resnet50:IMAGENET1K_V1"
    assert cli("models", "resnet18").err == ""
    assert cli("models", "--json").err == ""


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("effnet", "did you mean efficientnet_lite0, efficientnet_lite1, efficientnet_lite2?"),
        ("efficientnet_lite3", "did you mean efficientnet_lite2, efficientnet_lite1, efficientnet_lite0?"),
        ("lite0", "did you mean efficientnet_lite0?"),
        ("RESNET51", "did you mean resnet50, "),
        ("mobilenet_large", "did you mean mobilenet_v3_large"),
        ("mine.pt", "it is a file of weights: use --model ARCH --weights mine.pt with its architecture"),
        ("sub/Mine.PTH", "it is a file of weights: use --model ARCH --weights sub/Mine.PTH with"),
        ("mine.safetensors", "it is a file of weights: use --model ARCH --weights mine.safetensors with"),
        ("https://example.org/mine.pth", "a URL is not loaded: download the file, and use --model ARCH --weights FILE"),
        ("timm/effnet", "did you mean timm/"),
        ("qqqq", "`advimg models` lists them"),
        ("zz", "`advimg models` lists them"),
    ],
)
def test_a_name_that_is_nearly_right_is_told_the_right_one(cli: Cli, photo: Path, name: str, hint: str) -> None:
    ran = cli("classify", photo, "-m", name)
    assert (ran.code, ran.out) == (2, "")
    assert one_line(ran.err).startswith(f"advimg: unknown model {name!r}; {hint}")


def test_models_search_for_every_word(cli: Cli, caches: Path) -> None:
    ran = cli("models", "ResNet", "v1", "50")
    names = [row.split()[0] for row in ran.out.splitlines()[1:]]
    assert names == ["resnet50:IMAGENET1K_V1", "wide_resnet50_2:IMAGENET1K_V1"]


def test_models_as_json_tell_what_is_on_disk(cli: Cli, caches: Path) -> None:
    (caches / "resnet50-0676ba61.pth").touch()
    found = json.loads(cli("models", "resnet50", "v1", "--json").out)
    assert found[0] == {
        "name": "resnet50:IMAGENET1K_V1",
        "input_size": 224,
        "parameters": 25557032,
        "top1": 76.13,
        "on_disk": True,
    }
    assert [each["on_disk"] for each in found] == [True, False]
    plain = cli("models", "resnet50").out.splitlines()
    assert [row.split()[0] for row in plain if row.endswith("  yes")] == ["resnet50:IMAGENET1K_V1"]


def test_models_of_timm(cli: Cli, caches: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    for path in (snapshot / "refs" / "main", snapshot / "snapshots" / "main" / "model.safetensors"):
        path.parent.mkdir(parents=True)
        path.write_text("main")
    found = json.loads(cli("models", "timm/", "ViT", "tiny", "--json").out)
    names = [each["name"] for each in found]
    assert "timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k" in names
    assert all(name.startswith("timm/") and "vit" in name and "tiny" in name for name in names)
    assert {each["input_size"] for each in found} >= {224, 384}
    assert [each["name"] for each in found if each["on_disk"]] == ["timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"]


@pytest.mark.parametrize("query", [("qqqq",), ("timm/", "qqqq"), ("timm/qqqq",)])
def test_models_that_do_not_exist_are_one_line(cli: Cli, caches: Path, query: tuple[str, ...]) -> None:
    ran = cli("models", *query)
    assert (ran.code, ran.out) == (2, "")
    assert f"no model's name contains {' '.join(query)!r}" in one_line(ran.err)


def test_models_help_tells_the_exit_code(cli: Cli, caches: Path) -> None:
    code = cli("models", "qqqq").code
    assert f"Exit code {code} if none matches" in " ".join(cli("models", "--help").out.split())


def test_models_of_timm_without_timm(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    ran = cli("models", "timm/")
    assert ran.code == 1
    assert "pip install 'advimg-cli[timm]'" in one_line(ran.err)


def test_timm_is_not_imported_unless_it_is_named() -> None:
    code = (
        "import sys; from advimg.cli import run\n"
        "assert run(['models', 'resnet18']) == 0\n"
        "assert run(['models', 'qqqq']) == 2\n"
        "assert 'torchvision' in sys.modules\n"
        "assert not {'timm', 'huggingface_hub', 'safetensors'} & set(sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()


# Several models.


def test_classify_puts_several_models_side_by_side(cli: Cli, photo: Path, small: str) -> None:
    Image.fromarray(random_photo(50, 40).levels).save("noise.png")
    ran = cli("classify", photo, "noise.png", "-m", LITE0, "-m", small, "--json")
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    assert [(Path(line["source"]).name, line["model"]) for line in lines] == [
        ("cat.png", LITE0),
        ("cat.png", small),
        ("noise.png", LITE0),
        ("noise.png", small),
    ]
    assert lines[0]["top5"][0]["name"] == "tiger cat"
    assert {prediction["name"] for prediction in lines[1]["top5"]} == {f"class {index}" for index in range(5)}
    tables = ran.err.splitlines()
    assert len(tables) == 2 * (1 + 1 + 5)  # the photo, the header, five rows
    assert tables[1].split() == [LITE0, small]
    assert re.search(r"% .*tiger cat .*% .*class \d", tables[2])


def test_classify_with_more_than_two_models_gives_each_a_row(cli: Cli, photo: Path, small: str) -> None:
    Path("again.toml").write_text(Path(small).read_text())
    ran = cli("classify", photo, "-m", small, "-m", LITE0, "-m", "again.toml", "-m", small)
    assert ran.code == 0, ran.err
    assert [line.split()[0] for line in ran.err.splitlines()[1:]] == [small, LITE0, "again.toml"]


def test_classify_with_models_of_few_and_many_classes(cli: Cli, photo: Path, tmp_path: Path) -> None:
    torch.save(models.squeezenet1_1(weights=None, num_classes=2).state_dict(), tmp_path / "two.pt")
    (tmp_path / "two.toml").write_text('model = "squeezenet1_1"\nweights = "two.pt"\nlabels = ["cat", "dog"]\n')
    ran = cli("classify", photo, "-m", LITE0, "-m", "two.toml", "--json")
    assert ran.code == 0, ran.err
    assert [len(json.loads(line)["top5"]) for line in ran.out.splitlines()] == [5, 2]


@pytest.mark.parametrize(
    "option",
    [
        ("--weights", "five.pt"),
        ("--labels", "five.txt"),
        ("--input-size", "64"),
        ("--resize", "64"),
        ("--interpolation", "bicubic"),
        ("--mean", "0.5"),
        ("--std", "0.5"),
    ],
)
@pytest.mark.parametrize("command", ["classify", "verify"])
def test_options_that_belong_to_one_model_are_refused_with_several(
    cli: Cli, photo: Path, small: str, command: str, option: tuple[str, str]
) -> None:
    own = ("--original", photo, "-t", "pelican", "-e", "10") if command == "verify" else ()
    ran = cli(command, photo, *own, "-m", LITE0, "-m", small, *option)
    assert ran.code == 2
    assert f"{option[0]} with several models: say in a TOML file" in one_line(ran.err)


def test_verify_holds_a_file_against_several_models(cli: Cli, photo: Path, tmp_path: Path, lite0: Classifier) -> None:
    state = {key: value.clone() for key, value in lite0.network.state_dict().items()}
    torch.save(state, tmp_path / "same.pt")
    state["_fc.bias"][7] += 100
    torch.save(state, tmp_path / "other.pt")
    for name in ("same", "other"):
        (tmp_path / f"{name}.toml").write_text(f'model = "{LITE0}"\nweights = "{name}.pt"\n')
    cli("attack", photo, "-t", "pelican", "-m", LITE0, "--no-figure")
    checked = ("verify", "cat_pelican.png", "--original", photo, "--json")
    both = cli(*checked, "-m", LITE0, "-m", "same.toml", "-v")
    assert both.code == 0, both.err
    assert [(json.loads(line)["model"], json.loads(line)["holds"]) for line in both.out.splitlines()] == [
        (LITE0, True),
        ("same.toml", True),
    ]
    assert f"judged by {LITE0} and same.toml" in both.err
    assert both.err.count("largest change") == 1
    one = cli(*checked, "-m", LITE0, "-m", "other.toml")
    assert one.code == 3
    assert [json.loads(line)["holds"] for line in one.out.splitlines()] == [True, False]
    assert re.search(r"ok +pelican .*, by efficientnet_lite0", one.err)
    assert re.search(r"NO +pelican +cock .*, by other\.toml", one.err)
    assert "the promise does not hold" in one.err


def test_a_recorded_target_means_its_name_to_a_model_of_other_classes(cli: Cli, photo: Path, tmp_path: Path) -> None:
    """The record says 144, which is the pelican's index for one of the models only."""
    torch.save(models.squeezenet1_1(weights=None, num_classes=2).state_dict(), tmp_path / "two.pt")
    (tmp_path / "two.toml").write_text('model = "squeezenet1_1"\nweights = "two.pt"\nlabels = ["gull", "pelican"]\n')
    cli("attack", photo, "-t", "pelican", "-m", LITE0, "--no-figure")
    ran = cli("verify", "cat_pelican.png", "--original", photo, "-m", LITE0, "-m", "two.toml", "--json")
    assert [json.loads(line)["target"]["name"] for line in ran.out.splitlines()] == ["pelican", "pelican"], ran.err


def test_a_file_made_with_another_preprocessing_is_not_judged_with_the_published_one(cli: Cli) -> None:
    Image.fromarray(random_photo(90, 70).levels).save("noise.png")
    own = ("-m", LITE0, "--input-size", "128")
    made = cli("attack", "noise.png", "-t", "runner-up", *own, "--confidence", "0", "--no-figure")
    assert made.code == 0, made.err
    checked = ("verify", "noise_runner_up.png", "--original", "noise.png")
    assert cli(*checked, *own).code == 0
    ran = cli(*checked, "--json")  # by the published one
    assert ran.code == 3
    assert "NO  record" in ran.err
    assert f"{LITE0}: resize 146 in the record, 256 here; crop 128 in the record, 224 here" in ran.err
    assert json.loads(ran.out)["view"]["crop"] == 224


# Targets by rule.


def attack(cli: Cli, photo: Path, rule: str, *options: str) -> dict[str, Any]:
    ran = cli(
        "attack", photo, "-t", rule, "-m", LITE0, "--steps", "2", "--no-figure", "--no-perturbation", "--json", *options
    )
    record: dict[str, Any] = json.loads(ran.out)
    assert ran.code == code_of([record]), ran.err
    return record


@pytest.mark.parametrize(
    ("rule", "name"),
    [("least-likely", "cat_least_likely.png"), ("RUNNER_UP", "cat_runner_up.png"), ("random", "cat_random.png")],
)
def test_targets_by_rule(cli: Cli, photo: Path, lite0: Classifier, rule: str, name: str) -> None:
    record = attack(cli, photo, rule)
    assert record["outputs"] == {"adversarial": name}
    assert record["target_rule"] == rule.lower().replace("_", "-")
    with Image.open(photo) as image:
        before = lite0.judge(np.asarray(image.convert("RGB")))
    target = record["target"]["index"]
    assert record["target"]["name"] == lite0.labels[target]
    if rule == "least-likely":
        assert before.confidence(target) == before.probabilities.min()
    elif rule == "RUNNER_UP":
        assert target == record["before"][1]["index"]
    else:
        assert target != before.top1


def test_a_random_target_is_chosen_by_the_seed(cli: Cli, photo: Path, tmp_path: Path) -> None:
    targets, files = [], []
    for folder, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        (tmp_path / folder).mkdir()
        record = attack(cli, photo, "random", "--seed", seed, "-O", folder)
        targets.append(record["target"]["index"])
        files.append((tmp_path / folder / "cat_random.png").read_bytes())
    assert targets[0] == targets[1] != targets[2]
    assert files[0] == files[1]


def test_a_file_with_a_target_by_rule_is_verified_by_its_record(cli: Cli, photo: Path) -> None:
    assert cli("attack", photo, "-t", "runner-up", "-m", LITE0, "--no-figure").code == 0
    assert cli("verify", "cat_runner_up.png", "--original", photo).code == 0


def test_targets_by_rule_in_python() -> None:
    classifier, photo = linear_classifier(classes=9, scale=0.05), random_photo(8, 8)
    order = [prediction.index for prediction in classifier.judge(photo.levels).top(9)]
    found = {
        rule: advimg.attack(photo, rule, model=classifier, steps=2).record
        for rule in ("random", "least-likely", "runner-up")
    }
    assert {record.target_rule for record in found.values()} == {"random", "least-likely", "runner-up"}
    assert found["least-likely"].target.index == order[-1]
    assert found["runner-up"].target.index == order[1]
    assert found["random"].target.index != order[0]
    seeded = [
        advimg.attack(photo, "random", model=classifier, steps=1, seed=seed).record.target.index for seed in range(20)
    ]
    assert seeded[0] == found["random"].target.index
    assert len(set(seeded)) > 4
    assert order[0] not in seeded
    assert advimg.attack(photo, 3, model=classifier, steps=1).record.target_rule is None


def test_python_takes_the_options_of_a_model(tmp_path: Path, small: str) -> None:
    spec = str(tmp_path / small)
    verdict = advimg.classify(random_photo(50, 40), model=spec, device="cpu")
    assert len(verdict.top(9)) == 5
    with pytest.raises(ClassifierError, match="there are 2 labels, but the network has 5 outputs"):
        advimg.load_classifier(spec, labels=["a", "b"], device="cpu")


def test_untargeted_leaves_the_class_that_is_seen(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "--untargeted", "-m", LITE0, "--eps", "2", "--json", "--no-figure")
    record = json.loads(ran.out)
    assert ran.code == 0
    assert record["target_rule"] == "untargeted"
    assert record["after"][0]["index"] == record["target"]["index"] != record["before"][0]["index"]
    assert judge(Path("cat_untargeted.png"))[0] == record["target"]["index"]
    assert cli("verify", "cat_untargeted.png", "--original", photo).code == 0


@pytest.mark.parametrize("given", [(), ("-t", "pelican", "--untargeted")])
def test_a_target_or_none_has_to_be_asked_for(cli: Cli, photo: Path, given: tuple[str, ...]) -> None:
    ran = cli("attack", photo, "-m", LITE0, *given)
    assert ran.code == 2
    assert "--untargeted" in ran.err


def test_untargeted_that_falls_short_is_not_verified(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "--untargeted", "-m", LITE0, "--eps", "1", "--steps", "1", "--step-size", "0.1")
    assert ran.code == 3
    assert "no other class was reached" in ran.err
    assert cli("verify", "cat_untargeted.png", "--original", photo).code == 3


def test_two_files_of_one_name_are_two_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("a/x", "b/x", "c"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "mine.toml").write_text(f'model = "{LITE0}"\n')
    models = Models.of(["a/x/mine.toml", LITE0], ["b/x/mine.toml", "c/mine.toml"])
    titles = [each.title for each in (*models.attacked, *models.check_on) if isinstance(each, ModelSpec)]
    assert titles == ["a/x/mine.toml", None, "b/x/mine.toml", "c/mine.toml"]
    (alone,) = Models.of("c/mine.toml").attacked
    assert isinstance(alone, ModelSpec)
    assert alone.title == "mine.toml"
