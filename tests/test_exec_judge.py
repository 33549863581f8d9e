"""Judges that are programs: what they are given, what they may print, and what happens when they fail."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.program import Program
from advimg.errors import ClassifierError, UsageError
from advimg.labels import same_class
from advimg.record import Answer, CheckedTarget
from advimg.record_schema import check_record, record_of
from advimg.report.survival import matrix_of
from tests.batches import quick_classifier, records_of, sha256
from tests.conftest import Cli, random_photo

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the programs here are shell scripts")

SEES = 'case "$1" in *.jpg) echo \'{"label": "cup"}\';; *) echo \'{"label": "Class_3", "confidence": 0.93}\';; esac'
"""A program that is fooled: it takes photos, which are JPEGs here, for a cup."""
COMMAND = ("attack", "photos/p00.jpg", "-t", "3", "--no-figure", "--no-perturbation", "-O", ".")

Script = Callable[..., Path]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a shell script that can be executed: ``script("echo x", "name")``."""

    def write(body: str, name: str = "predict") -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    return write


def judge(path: Path, *, limit: float = 20) -> tuple[Answer, ...]:
    return replace(Program.of(f"exec:{path}"), limit=limit).judge(path)


# What a program is given.


def test_a_program_judges_the_file_and_its_words_stand_like_those_of_a_network(
    cli: Cli, photos: list[Path], quick: Classifier, script: Script
) -> None:
    assert cli(*COMMAND).code == 0
    alone = Path("p00_class_3.png").read_bytes()
    script(f'echo "$# $1" >> given; cp "$1" seen.png; cat > read; {SEES}')
    ran = cli(*COMMAND, "--check-on", "exec:./predict", "--json", "-f", "-v")
    assert ran.code == 0, ran.err
    (seen,) = json.loads(ran.out)["checked"]
    assert seen == {
        "model": "exec:./predict",
        "weights": None,
        "weights_sha256": None,
        "view": None,
        "target": {"index": None, "name": "class 3"},
        "before": [{"index": None, "name": "cup", "confidence": None}],
        "after": [{"index": None, "name": "Class_3", "confidence": 0.93}],
        "fooled": True,
        "confidence": 0.93,
        "survives": [],
        "error": None,
    }
    assert "  cup → Class_3 93.0 %, by exec:./predict, which took no part\n" in ran.err
    assert "cup       93.0 % ███████  Class_3 ←\n" in ran.err
    # It takes no part, and is given the photo's own file and then the picture, without what would tell it the answer.
    assert Path("p00_class_3.png").read_bytes() == alone
    first, second = Path("given").read_text(encoding="utf-8").splitlines()
    assert first == f"1 {photos[0]}"
    temporary = Path(second.removeprefix("1 "))
    assert temporary.is_absolute()
    assert not temporary.exists()
    assert Path("read").read_bytes() == b""
    with Image.open("seen.png") as given, Image.open("p00_class_3.png") as written:
        assert np.array_equal(np.asarray(given), np.asarray(written))
        assert "advimg" not in given.info
        assert "advimg" in written.info


def test_a_program_sees_transparency_and_the_pixels_of_what_is_no_file(tmp_path: Path, script: Script) -> None:
    alpha = np.full((8, 9, 1), 100, np.uint8)
    levels = np.dstack([random_photo(9, 8).levels, alpha])
    script(f'cp "$1" {tmp_path}/$(basename "$1"); echo \'{{"label": "cup"}}\'')
    outcome = advimg.attack(Image.fromarray(levels), 1, model=quick_classifier(), check_on=f"exec:{tmp_path}/predict")
    for name, expected in (("photo", levels), ("adversarial", np.dstack([outcome.levels, alpha]))):
        with Image.open(tmp_path / f"{name}.png") as given:
            assert np.array_equal(np.asarray(given), expected)


def test_a_photo_that_was_changed_since_is_given_as_it_was_attacked(photos: list[Path], script: Script) -> None:
    photo = advimg.api.open_photo(photos[0])
    assert photo.source == str(photos[0])
    photos[0].write_bytes(photos[1].read_bytes())
    program = f"exec:{script(SEES)}"
    (seen,) = advimg.attack(photo, 1, model=quick_classifier(), check_on=program).record.checked
    assert seen.before[0].name == "Class_3"  # a PNG


def test_programs_have_arguments_and_several_judge_one_file_after_networks(script: Script, tmp_path: Path) -> None:
    script('echo "{\\"label\\": \\"$1\\"}"', "say")
    network = quick_classifier(seed=1)
    programs = [f"exec:{tmp_path}/say 'class 1'", f"exec:sh {tmp_path}/say cup"]
    outcome = advimg.attack(
        random_photo(8, 8), 1, model=quick_classifier(), check_on=[programs[0], network, programs[1]]
    )
    assert [seen.model for seen in outcome.record.checked] == ["linear", *programs]
    assert [seen.after[0].name for seen in outcome.record.checked[1:]] == ["class 1", "cup"]
    assert [seen.fooled for seen in outcome.record.checked[1:]] == [True, False]


def test_a_bare_name_is_found_on_the_path_or_here(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here = script("", "predict")
    assert Program.of("exec:predict").command == (str(here),)
    (tmp_path / "bin").mkdir()
    there = script("", "bin/predict")
    monkeypatch.setenv("PATH", str(there.parent), prepend=os.pathsep)
    assert Program.of("exec:predict a 'b c'").command == (str(there), "a", "b c")
    assert Program.of("exec:./predict").command == (str(here),)


# What it may print.


@pytest.mark.parametrize(
    ("printed", "answers"),
    [
        ('{"label": "tabby"}', [("tabby", None)]),
        ('[{"label": " Tabby\\n"}]', [("Tabby", None)]),
        ('{"label": "tabby", "confidence": 0.93, "box": [1]}', [("tabby", 0.93)]),
        ('[{"score": 0.25, "label": "a"}, {"score": 0.5, "label": "b"}]', [("b", 0.5), ("a", 0.25)]),
        ('\ufeff[{"label": "ä", "score": 1.0000001}, {"label": "b", "confidence": 0}]\n', [("ä", 1.0), ("b", 0.0)]),
    ],
)
def test_forms(script: Script, tmp_path: Path, printed: str, answers: list[tuple[str, float | None]]) -> None:
    (tmp_path / "out").write_text(printed, encoding="utf-8")
    got = judge(script(f"echo warning >&2; cat {tmp_path}/out"))
    assert got == tuple(Answer(None, name, confidence) for name, confidence in answers)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo >&2; echo No weights >&2; echo b >&2; exit 3", "ends with exit status 3: No weights"),
        (f"exec {sys.executable} -c 'raise ValueError(1)'", "ends with exit status 1: ValueError: 1"),
        ("exit 4", "ends with exit status 4"),
        ("kill -9 $$", "ends with signal 9"),
        ("true", 'prints nothing; it has to print {"label": "tabby", "confidence": 0.93} or a list of such'),
        ("echo tabby", "prints no JSON (Expecting value: line 1 column 1 (char 0)); it has to print"),
        ("echo '{\"label\": NaN}'", "prints no JSON (NaN is no JSON); it has to print"),
        ("printf '\\377'", "prints what is no UTF-8; it has to print JSON"),
        ("echo '[]'", "prints other JSON (Expected `array` of length >= 1); it has to print"),
        ("echo '{\"class\": 3}'", "prints other JSON (Object missing required field `label`); it has to print"),
        ('echo \'{"label": " "}\'', "prints other JSON (Expected `str` matching regex"),
        ('echo \'{"label": "a", "score": 17.5}\'', "prints other JSON (Expected `float` <= 1.00001 - at `$.score`)"),
        (
            'echo \'[{"label": "a", "score": 1}, {"label": "b"}]\'',
            "prints several labels, not all with a confidence; it has to print",
        ),
        ("yes", "prints more than 4 MiB; it has to print"),
        ("yes | head -c 3000000 >&2; exit 5", "ends with exit status 5: y"),
    ],
)
def test_what_fails_is_one_line(script: Script, body: str, message: str) -> None:
    path = script(body)
    with pytest.raises(ClassifierError) as caught:
        judge(path)
    assert str(caught.value).startswith(f"exec:{path} {message}")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400 + len(str(path))


def test_what_is_no_program_cannot_be_started(tmp_path: Path) -> None:
    path = tmp_path / "predict"
    path.write_text("#!/no/such/interpreter\n", encoding="utf-8")
    path.chmod(0o755)
    with pytest.raises(ClassifierError, match="cannot be started: No such file or directory"):
        judge(path)
    path.write_bytes(b"\0\1")
    with pytest.raises(ClassifierError, match="cannot be started: Exec format error"):
        judge(path)


def test_one_that_hangs_is_ended_with_its_children(script: Script, tmp_path: Path) -> None:
    path = script(f"cd {tmp_path}; echo $$ > pid; (sleep 1; touch late) & sleep 30")
    began = time.monotonic()
    with pytest.raises(ClassifierError, match=r"gives no answer in 0\.5 s, and was stopped$"):
        judge(path, limit=0.5)
    assert time.monotonic() - began < 10
    with pytest.raises(ProcessLookupError):  # not even a zombie
        os.kill(int((tmp_path / "pid").read_text(encoding="ascii")), 0)
    time.sleep(1)
    assert not (tmp_path / "late").exists()


def test_children_that_are_left_behind_keep_nobody_waiting(script: Script) -> None:
    path = script('sleep 30 & echo \'{"label": "cup"}\'')
    began = time.monotonic()
    assert judge(path) == (Answer(None, "cup", None),)
    assert time.monotonic() - began < 10


# What cannot be asked for.


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((*COMMAND, "--check-on", "exec:./missing"), 1, "exec:./missing: there is no program ./missing"),
        ((*COMMAND, "--check-on", "exec:no_such_word"), 1, "exec:no_such_word: there is no program no_such_word"),
        ((*COMMAND, "--check-on", "exec:./plain x"), 1, "exec:./plain x: ./plain is not executable; chmod +x"),
        ((*COMMAND, "--check-on", "exec:photos"), 1, "exec:photos: there is no program photos"),
        ((*COMMAND, "--check-on", "exec:"), 2, "exec:: give a program, such as exec:./predict"),
        ((*COMMAND, "--check-on", "exec:'x"), 2, "exec:'x: No closing quotation"),
        ((*COMMAND, "-m", "exec:./predict"), 2, "exec:./predict is a program, which has no gradient; "),
        (("classify", "photos/p00.jpg", "-m", "exec:./predict"), 2, "exec:./predict is a program, which has"),
        (
            ("verify", "photos/p00.jpg", "--original", "photos/p00.jpg", "-t", "3", "-e", "4", "-m", "exec:./predict"),
            2,
            "exec:./predict is a program, which has",
        ),
        (("batch", "photos", "-t", "3", "-O", "out", "-m", "exec:./predict"), 2, "exec:./predict is a program"),
        (("sweep", "photos", "-t", "3", "-O", "out", "-m", "exec:./predict"), 2, "exec:./predict is a program"),
    ],
)
def test_what_cannot_be_is_one_line_before_the_attack(
    cli: Cli, photos: list[Path], script: Script, arguments: tuple[str, ...], code: int, message: str
) -> None:
    script(SEES)
    Path("plain").touch()
    if "-m" not in arguments:
        arguments = (*arguments, "-m", "efficientnet_lite0")
    ran = cli(*arguments)
    assert ran.code == code
    (line,) = ran.err.splitlines()
    assert line.removeprefix("advimg: ").removeprefix("error: ").startswith(message)
    assert not list(Path().rglob("*_*.png"))


def test_a_program_given_twice_or_with_a_name_too_long_is_refused(script: Script) -> None:
    program = f"exec:{script(SEES)}"
    for given, message in (([program, program], "given twice"), (f"{program} {'x' * 1000}", "cannot be the name")):
        with pytest.raises(UsageError, match=message):
            advimg.attack(random_photo(8, 8), 1, model=quick_classifier(), check_on=given)
    with pytest.raises(UsageError, match="has no gradient"):
        advimg.attack(random_photo(8, 8), 1, model=program)


# When a program fails.


def test_the_file_is_kept_when_a_program_fails(cli: Cli, photos: list[Path], quick: Classifier, script: Script) -> None:
    script("echo No weights >&2; exit 3", "broken")
    script(SEES)
    ran = cli(
        *COMMAND, "--check-on", "exec:./broken", "--check-on", "exec:./predict", "--json", "-q", "--survive", "mirror"
    )
    assert ran.code == 1
    error = "exec:./broken ends with exit status 3: No weights"
    assert ran.err == f"advimg: photos/p00.jpg: {error}\n"
    record = json.loads(ran.out)
    broken, seen = record["checked"]
    nothing: dict[str, Any] = {"target": None, "before": [], "after": [], "fooled": False, "confidence": None}
    assert broken == {
        "model": "exec:./broken",
        "weights": None,
        "weights_sha256": None,
        "view": None,
        **nothing,
        "survives": [],
        "error": error,
    }
    assert seen["survives"] == [
        {
            "change": "mirror",
            "fooled": True,
            "seen": {"index": None, "name": "Class_3", "confidence": 0.93},
            "confidence": 0.93,
        }
    ]
    assert record["fooled"]
    assert cli("verify", record["outputs"]["adversarial"], "--original", photos[0], "-m", "quick").code == 0
    read = record_of(record)
    assert json.loads(read.to_json()) == record
    matrix = matrix_of([read])
    assert matrix is not None
    assert [column.models for column in matrix.columns] == [("linear",), ("exec:./predict",)]


def test_a_batch_goes_on_and_tells_of_it(cli: Cli, photos: list[Path], quick: Classifier, script: Script) -> None:
    script(f'echo "$1" >> given; case "$1" in */p01.jpg) test -e mended || exit 3;; esac; {SEES}')
    command = (
        "batch",
        "photos",
        "-t",
        "3",
        "-t",
        "random",
        "-O",
        "out",
        "--no-perturbation",
        "--check-on",
        "exec:./predict",
    )
    ran = cli(*command)
    assert ran.code == 1
    records = records_of(Path("out"))
    assert len(records) == 8
    error = "exec:./predict ends with exit status 3"
    for record in records:
        assert record["error"] is None
        assert record["adversarial_sha256"] == sha256(Path(record["outputs"]["adversarial"]))
        assert record["checked"][0]["error"] == (error if record["source"].endswith("p01.jpg") else None)
    summary = json.loads(Path("out/summary.json").read_bytes())
    fooled = sum(record["checked"][0]["fooled"] for record in records)
    assert fooled >= 3  # those whose target is class 3
    assert summary["checked_fooled"] == {"exec:./predict": fooled}
    assert (summary["verified"], summary["failures"]) == (8, [])
    assert summary["unanswered"] == [{"source": str(photos[1]), "error": error}] * 2
    assert ran.err.count(f"advimg: {photos[1]}: {error}\n") == 2
    assert ran.err.count(f"  failed: {error}\n") == 1
    assert "  no answer " in ran.err
    # A photo is judged once, whatever its targets; one that failed, once for each.
    given = Path("given").read_text(encoding="utf-8").splitlines()
    assert [given.count(str(photo)) for photo in photos] == [1, 2, 1, 1]

    again = cli(*command)
    assert again.code == 1
    assert "8 of 8 were done by an earlier run" in again.err
    for told in (ran, again):
        assert "  the same command with --retry-failed asks again where there is no answer\n" in told.err
    Path("mended").touch()
    mended = cli(*command, "--retry-failed")
    assert mended.code == 0
    assert "--retry-failed" not in mended.err
    assert "6 of 8 were done by an earlier run" in mended.err
    assert [seen["error"] for record in records_of(Path("out")) for seen in record["checked"]] == [None] * 8
    assert cli("report", "out").code == 0
    assert "exec:./predict is fooled, too: it sees Class_3, 93.0 %" in Path("out/report/index.html").read_text("utf-8")


def test_a_photo_that_fails_names_the_program_it_was_meant_for(
    cli: Cli, tmp_path: Path, quick: Classifier, script: Script
) -> None:
    script(SEES)
    Path("broken.jpg").write_bytes(b"no picture")
    assert cli("batch", "broken.jpg", "-t", "3", "-O", "out", "--check-on", "exec:./predict").code == 1
    (record,) = records_of(Path("out"))
    assert [(seen["model"], seen["view"], seen["after"]) for seen in record["checked"]] == [
        ("exec:./predict", None, [])
    ]


def test_several_processes_ask_it_too(cli: Cli, photos: list[Path], script: Script) -> None:
    Path("small.toml").write_text('model = "efficientnet_lite0"\ninput_size = 64\n', encoding="utf-8")
    script(SEES.replace("Class_3", "PELICAN"))
    for photo in photos[2:]:
        photo.unlink()
    ran = cli(
        *("batch", "photos", "-t", "pelican", "-m", "small.toml", "-O", "out", "--steps", "3"),
        *("--device", "cpu,cpu", "--check-on", "exec:./predict", "--no-perturbation"),
    )
    assert ran.code in (0, 3), ran.err
    found = [
        (seen["before"][0]["name"], seen["fooled"]) for record in records_of(Path("out")) for seen in record["checked"]
    ]
    assert found == [("cup", True)] * 2


# What stands in the record.


def test_an_attack_without_a_target_asks_for_another_label_than_before(script: Script, photos: list[Path]) -> None:
    last = '[{"label": "cup", "score": 0.25}, {"label": "mug", "score": 0.75}]'
    script(f"case $1 in *.jpg) echo '{{\"label\": \"cup\"}}';; *) echo '{last}';; esac")
    script('echo \'{"label": "cup"}\'', "same")
    checks = [f"exec:{photos[0].parent.parent / name}" for name in ("predict", "same")]
    record = advimg.attack(photos[0], "untargeted", model=quick_classifier(), check_on=checks, survive="mirror").record
    seen, same = record.checked
    assert (seen.target, seen.confidence, seen.fooled) == (CheckedTarget(None, "mug"), 0.75, True)
    assert (seen.survives[0].confidence, seen.survives[0].fooled) == (0.75, True)
    assert (same.target, same.confidence, same.fooled, same.sees_target) == (None, None, False, False)
    assert record_of(json.loads(record.to_json())) == record


def test_the_confidence_is_that_of_the_target_wherever_it_stands(script: Script) -> None:
    labels = [f'{{"label": "l{number}", "score": {0.9 - number / 100}}}' for number in range(8)]
    path = script(f'echo \'[{", ".join(labels)}, {{"label": "x, CLASS-1", "score": 0.001}}]\'')
    (seen,) = advimg.attack(random_photo(8, 8), 1, model=quick_classifier(), check_on=f"exec:{path}").record.checked
    assert (seen.fooled, seen.confidence, len(seen.after)) == (False, 0.001, 5)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("German_Shepherd", "german shepherd", True),
        ("tabby, tabby cat", "tabby", True),
        ("tabby, tabby cat", "tabby cat", True),
        ("tabby, tabby cat", "tiger cat", False),
        ("tabby cat", "tabby", False),
        ("?", "!", False),
        ("?", "?", True),
        ("猫", "猫", True),
    ],
)
def test_names_of_one_class(one: str, other: str, same: bool) -> None:
    assert same_class(one, other) == same_class(other, one) == same


def test_a_record_of_before_there_were_programs_is_read() -> None:
    network = quick_classifier(seed=1)
    record = advimg.attack(random_photo(8, 8), 1, model=quick_classifier(), check_on=network).record
    values = record.to_dict()
    del values["checked"][0]["error"]
    assert record_of(values) == record
    check_record(values)


def test_a_batch_that_is_to_stop_starts_no_other_program(
    photos: list[Path], out: Path, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = script(f"touch asked; sleep 0.3; {SEES}", "one")
    two = script(f"touch late; {SEES}", "two")
    stop = threading.Event()

    def stop_once_asked() -> None:
        while not Path("asked").exists():
            time.sleep(0.01)
        stop.set()

    def ran(**given: Any) -> int:
        return advimg.batch(
            photos[0], 3, out_dir=out, model=quick_classifier(), check_on=[f"exec:{one}", f"exec:{two}"], **given
        ).done

    thread = threading.Thread(target=stop_once_asked)
    thread.start()
    assert ran(stop=stop) == 0
    thread.join()
    assert not Path("late").exists()
    assert ran() == 1
    assert [seen["fooled"] for seen in records_of(out)[0]["checked"]] == [True, True]
