"""The command line: streams, files, exit codes, messages."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest
import torch
from PIL import Image

import advimg.classifiers.load
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.spec import ModelSpec
from advimg.cli.app import app
from advimg.cli.command import Option
from advimg.images.perturbation import shown_in
from advimg.settings import Group
from tests.conftest import Cli, linear_classifier, random_photo

LITE0 = ("-m", "efficientnet_lite0")


@pytest.fixture(autouse=True)
def _one_loading(monkeypatch: pytest.MonkeyPatch, lite0: Classifier) -> None:
    """Load the bundled network once for all tests that do not ask for other weights."""
    load = advimg.classifiers.load.load_classifier

    def once(name: str | ModelSpec, *, device: str = "auto", progress: bool = True) -> Classifier:
        spec = name if isinstance(name, ModelSpec) else ModelSpec.of(name)
        known = (spec, device) == (ModelSpec(model="efficientnet_lite0"), "auto")
        return lite0 if known and not torch.cuda.is_available() else load(spec, device=device, progress=progress)

    monkeypatch.setattr("advimg.classifiers.load.load_classifier", once)


def python(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, check=False, **options)  # type: ignore[call-overload,no-any-return]


# What is written, and where.


def test_attack_writes_its_files_and_says_so(cli: Cli, photo: Path, tmp_path: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", *LITE0)
    assert ran.code == 0
    assert ran.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {
        "cat.png",
        "cat_pelican.png",
        "cat_pelican_perturbation.png",
        "cat_pelican_figure.png",
    }
    assert "→ pelican" in ran.err
    assert re.search(r"  a person will .+: ΔE [\d.]+, SSIM (> )?[01]\.\d{3}\n", ran.err)
    for name in ("cat_pelican.png", "cat_pelican_perturbation.png", "cat_pelican_figure.png"):
        assert name in ran.err


def test_json_goes_to_stdout_and_holds_the_record(cli: Cli, photo: Path, tmp_path: Path) -> None:
    ran = cli("attack", photo, "-t", "144", *LITE0, "--json", "-q", "--no-figure", "-e", "8/255")
    assert ran.code == 0
    assert ran.err == ""
    record = json.loads(ran.out)
    assert record["target"] == {"index": 144, "name": "pelican"}
    assert record["eps"] == 8
    assert record["fooled"] is True
    assert record["outputs"] == {"adversarial": "cat_pelican.png", "perturbation": "cat_pelican_perturbation.png"}
    with Image.open(tmp_path / "cat_pelican.png") as image:
        chunk = json.loads(image.info["advimg"])
    assert chunk == {key: value for key, value in record.items() if key not in ("outputs", "seconds", "checked")} | {
        "source": "cat.png"
    }


def test_out_dir_and_output_name_the_files_and_a_chunk_tells_the_factor(cli: Cli, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    cli("attack", photo, "-t", "german_shepherd", *LITE0, "-O", folder, "--amplify", "2.5", "--no-figure")
    perturbation = folder / "cat_german_shepherd_perturbation.png"
    assert set(folder.iterdir()) == {folder / "cat_german_shepherd.png", perturbation}
    assert shown_in(perturbation) == (2.5, 2.5)
    cli("attack", photo, "-t", "235", *LITE0, "-o", folder / "mine.PNG", "--no-figure")
    assert (folder / "mine.PNG").exists()
    with Image.open(folder / "mine.PNG") as image:
        linf = json.loads(image.info["advimg"])["linf"]
    assert shown_in(folder / "mine_perturbation.png") == ("auto", max(10, 127 // linf))


def test_no_metadata_leaves_the_chunk_out(cli: Cli, photo: Path, tmp_path: Path) -> None:
    cli("attack", photo, "-t", "pelican", *LITE0, "--no-metadata", "--no-figure")
    for name in ("cat_pelican.png", "cat_pelican_perturbation.png"):
        with Image.open(tmp_path / name) as image:
            assert not {"advimg", "advimg-perturbation"} & image.info.keys()
    ran = cli("verify", "cat_pelican.png", "--original", photo, *LITE0)
    assert ran.code == 2
    assert "give --target and --eps" in ran.err


def test_an_existing_output_is_kept_unless_forced(cli: Cli, photo: Path, tmp_path: Path) -> None:
    output = tmp_path / "cat_pelican.png"
    output.write_bytes(b"mine")
    ran = cli("attack", photo, "-t", "pelican", *LITE0)
    assert ran.code == 1
    assert "--force" in ran.err
    assert output.read_bytes() == b"mine"
    assert cli("attack", photo, "-t", "pelican", *LITE0, "--no-figure", "--force").code == 0
    assert output.read_bytes() != b"mine"


def test_the_photo_itself_is_never_overwritten(cli: Cli, photo: Path) -> None:
    before = photo.read_bytes()
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "-o", "./cat.png", "--force")
    assert ran.code == 1
    assert "is the photo itself" in ran.err
    assert photo.read_bytes() == before


def test_not_reached_is_exit_3_with_the_best_attempt(cli: Cli, photo: Path, tmp_path: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--steps", "1", "-e", "1", "--no-figure")
    assert ran.code == 3
    assert "pelican was not reached" in ran.err
    assert (tmp_path / "cat_pelican.png").exists()
    checked = cli("verify", "cat_pelican.png", "--original", photo)
    assert checked.code == 3
    assert "the promise does not hold" in checked.err


def test_target_equal_to_the_present_class_is_no_error(cli: Cli, photo: Path, lite0: Classifier) -> None:
    with Image.open(photo) as image:
        present = lite0.judge(np.asarray(image.convert("RGB"))).top1
    ran = cli("attack", photo, "-t", present, *LITE0, "--json", "--confidence", "0", "--no-figure")
    assert ran.code == 0
    record = json.loads(ran.out)
    assert (record["linf"], record["psnr"], record["steps"]) == (0, None, 0)


def test_one_pixel_just_runs(cli: Cli, tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (200, 30, 90)).save(tmp_path / "one.png")
    assert cli("attack", "one.png", "-t", "pelican", *LITE0, "--steps", "3").code == 3


def test_alpha_and_orientation_of_the_photo(cli: Cli, tmp_path: Path, photo: Path) -> None:
    with Image.open(photo) as image:
        picture = image.convert("RGB")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=exif)
    assert cli("attack", "turned.png", "-t", "pelican", *LITE0, "--no-figure").code == 0
    with Image.open(tmp_path / "turned_pelican.png") as output:
        assert output.size == picture.size[::-1]
        assert output.mode == "RGBA"
        assert np.array_equal(np.asarray(output)[:, :, 3], np.rot90(np.asarray(picture)[:, :, 3], -1))
    assert cli("verify", "turned_pelican.png", "--original", "turned.png").code == 0


def test_stdin_and_stdout(photo: Path, tmp_path: Path) -> None:
    command = ["-m", "advimg", "attack", "-", "-t", "pelican", *LITE0, "-o", "-"]
    with photo.open("rb") as stdin:
        ran = python(*command, stdin=stdin, cwd=tmp_path)
    assert ran.returncode == 0
    with Image.open(io.BytesIO(ran.stdout)) as image:
        assert json.loads(image.info["advimg"])["source"] == "stdin"
    assert list(tmp_path.iterdir()) == [photo]
    refused = python(*command, "--json", stdin=subprocess.DEVNULL)
    assert refused.returncode == 2
    assert refused.stdout == b""


def test_a_png_is_not_written_to_a_terminal(cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "-o", "-")
    assert ran.code == 2
    assert "redirect" in ran.err


def test_the_same_input_gives_the_same_bytes(cli: Cli, photo: Path, tmp_path: Path) -> None:
    files = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cli("attack", photo, "-t", "teddy", *LITE0, "-O", folder, "-e", "3", "--seed", "7", "--precision", "fp32")
        files.append({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    assert len(files[0]) == 3
    assert files[0] == files[1]


def test_classify_goes_on_after_a_bad_file(cli: Cli, photo: Path) -> None:
    ran = cli("classify", "no.jpg", photo, *LITE0, "--json")
    assert ran.code == 1
    assert "no.jpg does not exist" in ran.err
    (line,) = ran.out.splitlines()
    seen = json.loads(line)
    assert len(seen["top5"]) == 5
    assert seen["size"] == [451, 300]
    assert cli("classify", photo, *LITE0).code == 0


def test_verify_says_what_is_broken(cli: Cli, photo: Path, tmp_path: Path) -> None:
    cli("attack", photo, "-t", "pelican", *LITE0, "--no-figure", "--refine", "0")
    assert cli("verify", "cat_pelican.png", "--original", photo).code == 0
    tight = cli("verify", "cat_pelican.png", "--original", photo, "-e", "9", "--json")
    assert tight.code == 3
    found = json.loads(tight.out)
    assert (found["linf"], found["holds"], found["same_size"]) == (10, False, True)
    assert cli("verify", "cat_pelican.png", "--original", photo, "-t", "hen").code == 3
    with Image.open(photo) as image:
        image.resize((100, 100)).save(tmp_path / "small.png")
    other = cli("verify", "cat_pelican.png", "--original", "small.png", "--json")
    assert other.code == 3
    assert json.loads(other.out)["linf"] is None
    assert "not the file that the PNG's record names" in other.err


def test_verify_passes_over_a_chunk_that_is_not_ours(cli: Cli, photo: Path, tmp_path: Path) -> None:
    from advimg.images.encode import encode_png

    (tmp_path / "odd.png").write_bytes(
        encode_png(random_photo(5, 5).levels, chunk='{"target": 3, "eps": "x", "model": 1}')
    )
    ran = cli("verify", "odd.png", "--original", photo)
    assert ran.code == 2
    assert "odd.png holds a record that is not one (" in ran.err
    assert "give --target and --eps and --model" in ran.err


def test_labels_lists_to_stdout(cli: Cli) -> None:
    ran = cli("labels", "shepherd")
    assert ran.out.splitlines() == ["235\tGerman shepherd"]
    assert json.loads(cli("labels", "shepherd", "--json").out) == [{"index": 235, "name": "German shepherd"}]
    assert len(cli("labels").out.splitlines()) == 1000
    assert cli("labels", "pelicann").code == 2


def test_demo_writes_the_pictures_and_names_what_to_try(cli: Cli, tmp_path: Path) -> None:
    for _ in range(2):  # again over its own files
        ran = cli("demo")
        assert ran.code == 0
        assert {path.name for path in (tmp_path / "advimg-demo").iterdir()} == {
            "coffee.png",
            "coffee_pelican.png",
            "coffee_pelican_perturbation.png",
            "coffee_pelican_figure.png",
        }
    assert "espresso" in ran.err
    tries = [line.split("#")[0].split()[1:] for line in ran.err.splitlines() if line.startswith("  advimg ")]
    assert len(tries) == 5
    for arguments in tries[:-1]:
        assert cli(*arguments).code == 0, arguments


# Bad input: one line, an exit code, nothing left behind.


@pytest.fixture
def odd_files(tmp_path: Path, photo: Path) -> Path:
    jpeg = io.BytesIO()
    with Image.open(photo) as image:
        image.convert("RGB").save(jpeg, "JPEG")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "short.jpg").write_bytes(jpeg.getvalue()[:9000])
    (tmp_path / "short.png").write_bytes(photo.read_bytes()[:90000])
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    Image.new("RGB", (10000, 3)).save(tmp_path / "thin.png")
    (tmp_path / "folder").mkdir()
    torch.save({"a": torch.zeros(1)}, tmp_path / "misfit.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk" * 50)
    return tmp_path


_BAD = {
    "missing photo": (("no.jpg",), 1, "does not exist"),
    "folder": (("folder",), 1, "is a folder"),
    "empty file": (("empty.jpg",), 1, "is empty"),
    "text named jpg": (("text.jpg",), 1, "not a picture"),
    "truncated jpeg": (("short.jpg",), 1, "damaged"),
    "truncated png": (("short.png",), 1, "damaged"),
    "bomb": (("bomb.png",), 1, "--max-pixels"),
    "max pixels": (("cat.png", "--max-pixels", "1000"), 1, "more than the 1,000 allowed"),
    "long and thin": (("thin.png",), 1, "crop it first"),
    "no output folder": (("cat.png", "-O", "nowhere"), 1, "does not exist; create it"),
    "file as output folder": (("cat.png", "-O", "text.jpg"), 1, "is a file"),
    "jpeg output": (("cat.png", "-o", "x.jpg"), 2, "must be a .png"),
    "two outputs": (("cat.png", "-o", "x.png", "-O", "folder"), 2, "give one of them"),
    "unknown class": (("cat.png", "-t", "pelicann"), 2, "did you mean pelican"),
    "ambiguous class": (("cat.png", "-t", "CARDIGAN"), 2, "264 (Cardigan) or 474 (cardigan)"),
    "index out of range": (("cat.png", "-t", "1000"), 2, "0 to 999"),
    "eps 0": (("cat.png", "-e", "0"), 2, "1 to 255"),
    "eps negative": (("cat.png", "-e", "-4"), 2, "1 to 255"),
    "eps 256": (("cat.png", "-e", "256"), 2, "1 to 255"),
    "eps fraction": (("cat.png", "-e", "0.04"), 2, "write 10"),
    "eps word": (("cat.png", "-e", "ten"), 2, "not a number"),
    "confidence": (("cat.png", "--confidence", "1.5"), 2, "at least 0 and below 1"),
    "steps": (("cat.png", "--steps", "0"), 2, "at least 1"),
    "unknown device": (("cat.png", "--device", "tpu"), 2, "use auto, cpu"),
    "unknown model": (("cat.png", "-m", "resnet51"), 2, "did you mean"),
    "missing weights": (("cat.png", "--weights", "no.pt"), 1, "no weights file"),
    "misfit weights": (("cat.png", "--weights", "misfit.pt"), 1, "do not fit"),
    "junk weights": (("cat.png", "--weights", "junk.pt"), 1, "never run"),
    "several photos": (("cat.png", "short.png"), 2, "batch"),
    "unknown option": (("cat.png", "--tarket", "x"), 2, "--target"),
}


@pytest.mark.parametrize("case", _BAD)
def test_bad_input_is_one_line_and_leaves_nothing(cli: Cli, odd_files: Path, case: str) -> None:
    arguments, code, message = _BAD[case]
    before = sorted(odd_files.rglob("*"))
    ran = cli("attack", *(() if "-t" in arguments else ("-t", "pelican")), *LITE0, *arguments)
    assert ran.code == code
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert message in ran.err
    assert sorted(odd_files.rglob("*")) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_cuda(cli: Cli, photo: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--device", "cuda")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "--device cpu" in ran.err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(cli: Cli, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "-O", folder)
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "cannot write" in ran.err


def test_weights_of_nan(cli: Cli, photo: Path, tmp_path: Path, lite0: Classifier) -> None:
    state = {key: value.clone() for key, value in lite0.network.state_dict().items()}
    state["_fc.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--weights", "nan.pt")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "not finite" in ran.err


def test_no_network_and_no_cache(cli: Cli, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    ran = cli("attack", photo, "-t", "pelican")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "resnet50-0676ba61.pth" in ran.err
    assert "efficientnet_lite0" in ran.err


def test_debug_shows_the_traceback(cli: Cli) -> None:
    from advimg.errors import PhotoError

    with pytest.raises(PhotoError):
        cli("attack", "no.jpg", "-t", "pelican", "--debug")


def test_an_unexpected_error_is_one_line(cli: Cli, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("advimg.engine.engine.Engine.attack", fail)
    ran = cli("attack", photo, "-t", "pelican", *LITE0)
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "--debug" in ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_attack_leaves_nothing(photo: Path, tmp_path: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "advimg", "attack", str(photo), "-t", "pelican", *LITE0, "-v"]
    options = ("--steps", "100000", "-e", "1", "--step-size", "0.0001")
    with subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"lite0 on cpu" in process.stderr.readline()  # the attack is about to begin
        time.sleep(0.3)
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == code
    assert b"Traceback" not in rest
    assert list(tmp_path.iterdir()) == [photo]


# Help, completion and imports.


def _commands() -> list[tuple[str, click.Command]]:
    ctx = click.Context(app)
    commands = [(name, app.get_command(ctx, name)) for name in app.list_commands(ctx)]
    return [(name, command) for name, command in commands if command is not None]


@pytest.mark.parametrize(("name", "command"), _commands())
def test_every_command_and_option_has_help(name: str, command: click.Command, cli: Cli) -> None:
    assert command.help
    assert command.short_help
    for param in command.params:
        if isinstance(param, click.Option):
            assert param.help, param.name
            assert param.help.endswith(".")
    ran = cli(name, "--help")
    assert ran.code == 0
    assert "Usage: advimg" in ran.out


def test_options_of_one_name_are_the_same_everywhere() -> None:
    seen: dict[str, tuple[object, ...]] = {}
    for _, command in _commands():
        for param in command.params:
            if isinstance(param, click.Option):
                # One of them or several.
                kind = type(param.type).__name__.replace("DevicesType", "DeviceType")
                kind = kind.replace("WholeTextType", "StringParamType")
                shape = (tuple(param.opts), tuple(param.secondary_opts), kind)
                for spelling in param.opts:
                    assert seen.setdefault(spelling, shape) == shape


def test_without_arguments_the_help_is_shown(cli: Cli) -> None:
    for arguments in ((), ("attack",)):
        ran = cli(*arguments)
        assert ran.code == 2
        assert "Usage:" in ran.err


@pytest.mark.parametrize(
    "arguments", [["--help"], ["attack", "--help"], ["labels", "dog"], ["--version"], ["attack", "no.jpg", "-t", "x"]]
)
def test_quick_commands_import_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from advimg.cli import run\n"
        f"run({arguments!r})\n"
        "loaded = {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    ran = python("-c", code)
    assert ran.returncode == 0, ran.stderr.decode()


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    code = "import sys, advimg, advimg.cli.app; assert not {'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)"
    assert python("-c", code).returncode == 0


def test_the_bundled_network_needs_no_torchvision(photo: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from advimg.cli import run\n"
        f"code = run(['attack', {str(photo)!r}, '-t', 'pelican', '-m', 'efficientnet_lite0', '--no-figure'])\n"
        "assert not {'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    ran = python("-c", code, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr.decode()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("advimg attack -t pel", "pelican"),
        ("advimg attack --target german_sh", "german_shepherd"),
        ("advimg cl", "classify"),
    ],
)
def test_completion(words: str, expected: str) -> None:
    environment = os.environ | {
        "_ADVIMG_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    ran = python("-c", "import sys; sys.argv = ['advimg']; from advimg.cli import main; main()", env=environment)
    assert f"plain,{expected}" in ran.stdout.decode().splitlines()


def test_no_colour_in_a_pipe(photo: Path, tmp_path: Path) -> None:
    ran = python("-m", "advimg", "classify", str(photo), *LITE0, cwd=tmp_path)
    assert b"\x1b[" not in ran.stderr


# What was wrong once.


def test_a_later_file_that_fails_takes_the_earlier_ones_with_it(
    cli: Cli, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> bytes:
        raise OSError(28, "No space left on device", "figure.png")

    monkeypatch.setattr("advimg.report.figure.draw_figure", full)
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "-q")
    assert (ran.code, ran.err) == (1, "advimg: figure.png: No space left on device\n")
    assert list(tmp_path.iterdir()) == [photo]


def test_demo_names_itself_as_it_was_called(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.argv", [".venv/bin/advimg", "demo"])
    assert "  .venv/bin/advimg labels dog\n" in cli("demo").err


def test_demo_writes_over_its_own_files_only(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "coffee_pelican.png").write_text("mine")
    ran = cli("demo", "-O", ".")
    assert ran.code == 1
    assert "coffee_pelican.png exists" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["coffee_pelican.png"]


@pytest.mark.parametrize(
    ("wrong", "code", "named"),
    [(("-t", "pelicann"), 2, "pelicann"), (("-t", "pelican", "-O", "nowhere"), 1, "nowhere")],
)
def test_mistakes_are_found_before_a_download(
    cli: Cli, photo: Path, wrong: tuple[str, ...], code: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*arguments: object, **options: object) -> None:
        raise AssertionError("a download was begun")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    ran = cli("attack", photo, *wrong)
    assert ran.code == code
    assert named in ran.err


@pytest.mark.parametrize("factor", ["nan", "inf", "0", "-3", "256"])
def test_amplify_out_of_range(cli: Cli, photo: Path, factor: str) -> None:
    ran = cli("attack", photo, "-t", "pelican", *LITE0, "--amplify", factor)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "at most 255" in ran.err


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_that_leads_nowhere_is_not_replaced(cli: Cli, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "cat_pelican.png").symlink_to("elsewhere")
    ran = cli("attack", photo, "-t", "pelican", *LITE0)
    assert ran.code == 1
    assert "exists" in ran.err


def test_names_too_long_are_one_line(cli: Cli, photo: Path, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 250 + ".png")
    photo.rename(long)
    ran = cli("attack", long, "-t", "pelican", *LITE0, "-o", "y" * 260 + ".png")
    assert (ran.code, len(ran.err.splitlines())) == (1, 1)
    assert "cannot write" in ran.err


def test_a_terminal_s_commands_are_not_passed_on(cli: Cli, photo: Path, tmp_path: Path) -> None:
    from advimg.images.encode import encode_png

    made = advimg.attack(random_photo(5, 5), 1, model=linear_classifier(), steps=1).record
    chunk = replace(made, source="\x1b[2J").to_chunk()
    (tmp_path / "odd.png").write_bytes(encode_png(random_photo(5, 5).levels, chunk=chunk))
    ran = cli("verify", "odd.png", "--original", photo, *LITE0, "-t", "1")
    assert "not the file that the PNG's record names" in ran.err
    assert "\x1b" not in ran.err
    assert "\x1b" not in cli("attack", "\x1b[2J.png", "-t", "x").err


def test_help_has_options_in_groups(cli: Cli) -> None:
    help_ = cli("attack", "--help").out
    headings = ["Examples:", "What to reach:", "Models:", "The attack:", "Photos:", "Files:", "What is said:"]
    places = [help_.index(f"\n{heading}\n" if heading != "Examples:" else heading) for heading in headings]
    assert places == sorted(places)
    assert help_.index("--momentum") > help_.index("The attack:")
    assert help_.index("--eps") < help_.index("Models:")


def test_every_option_has_a_heading_and_can_be_set_elsewhere() -> None:
    for _, command in _commands():
        for param in command.params:
            if isinstance(param, click.Option):
                assert isinstance(param, Option), param.name
                assert param.group in get_args(Group)
                assert str(param.envvar) == f"ADVIMG_{param.key.replace('-', '_').upper()}"
