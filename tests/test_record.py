"""The record's JSON."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import advimg
from advimg.errors import RecordError
from advimg.outputs import is_summary
from advimg.record import Failure, Record
from advimg.record_schema import check_record, parse_json, read_chunk, record_of
from tests import record_schema
from tests.conftest import linear_classifier, random_photo

# The contract: these keys, in this order; further settings may stand before "mask_sha256".
KEYS = [
    *("advimg", "schema", "source", "source_sha256", "size", "model", "weights", "weights_sha256", "view", "target"),
    *("target_rule", "ensemble", "checked", "norm", "eps", "max_eps", "eps_tried", "seed", "min_confidence"),
    "survive",
    *(
        "max_steps",
        "step_size",
        "momentum",
        "attack",
        "loss",
        "restarts",
        "refine_steps",
        "transfer",
        "mask_sha256",
    ),
    *(
        "device",
        "precision",
        "environment",
        "l2",
        "before",
        "after",
        "fooled",
        "confidence",
        "survives",
        "linf",
        "psnr",
        "visibility",
        "steps",
        "gradients",
        "seconds",
        "outputs",
    ),
    "error",
]


def record() -> Record:
    return advimg.attack(random_photo(9, 7), 1, model=linear_classifier(classes=6)).record


def test_the_schema() -> None:
    values = json.loads(record().to_json())
    assert list(values) == KEYS
    assert list(Failure("a.jpg", "broken", {}).to_dict()) == KEYS
    assert values["advimg"] == advimg.__version__
    assert values["size"] == [9, 7]
    assert values["target"] == {"index": 1, "name": "class 1"}
    assert [set(prediction) for prediction in values["before"]] == [{"index", "name", "confidence"}] * 5
    assert isinstance(values["eps"], int)
    assert isinstance(values["linf"], int)
    assert values["error"] is None


def test_a_record_of_before_there_were_other_attacks_is_one_of_pgd() -> None:
    values = record().to_dict()
    for name in ("attack", "survive", "survives", "schema", "environment"):
        del values[name]
    read = record_of(values)
    assert (read.schema, read.attack, read.survive, read.survives) == (1, "pgd", None, ())
    assert read.environment is None
    del values["seed"]
    with pytest.raises(RecordError):
        record_of(values)


def test_a_record_of_before_visibility_was_measured_has_none() -> None:
    values = record().to_dict()
    measured = values.pop("visibility")
    assert list(measured) == ["delta_e_mean", "delta_e_p95", "ssim"]
    assert record_of(values).visibility is None
    assert record_of(values | {"visibility": measured}).visibility == record().visibility


def test_the_line_is_ascii_and_one_line() -> None:
    line = replace(record(), source="фото\n.jpg").to_json()
    assert line.isascii()
    assert "\n" not in line


def test_the_chunk_leaves_out_what_differs_from_run_to_run() -> None:
    full = replace(record(), source="/home/me/photos/dog.jpg", outputs={"adversarial": "/home/me/x.png"})
    chunk = json.loads(full.to_chunk())
    assert chunk["source"] == "dog.jpg"
    assert set(full.to_dict()) - set(chunk) == {"outputs", "seconds", "checked"}
    assert "/home" not in full.to_chunk()
    assert full.to_chunk() == replace(full, seconds=99.0).to_chunk()


def test_a_record_is_read_from_its_json() -> None:
    networks = [linear_classifier(classes=6, seed=seed) for seed in (0, 1)]
    watching = [linear_classifier(classes=6, seed=2)]
    for changes in ({"eps": "auto"}, {"eps": 1.5, "norm": "l2"}):
        outcome = advimg.attack(random_photo(9, 7), 1, model=networks, check_on=watching, **changes)
        made = replace(outcome.record, outputs={"adversarial": "x.png"})
        read = record_of(json.loads(made.to_json()) | {"adversarial_sha256": "0"})
        assert read == made
        assert read.to_json() == made.to_json()
        assert read.least_fooled == made.least_fooled


def test_networks_saw_the_file_after_the_same_changes() -> None:
    networks = [linear_classifier(classes=6, seed=seed) for seed in (0, 1)]
    values = advimg.attack(random_photo(9, 7), 1, model=networks, survive="mirror,jpeg:90").record.to_dict()
    assert [each.change for each in record_of(values).least_survives] == ["mirror", "jpeg:90"]
    wrong: list[list[Any]] = [[], values["survives"][:1], values["survives"][::-1]]
    for changes in wrong:
        for damaged in (
            values | {"survives": changes},
            values | {"ensemble": [values["ensemble"][0] | {"survives": changes}]},
        ):
            for read in (record_of, check_record):
                with pytest.raises(RecordError, match="different changes"):
                    read(damaged)


_SEEN = {"index": 1, "name": "x", "confidence": 0.5}
_WRONG: dict[str, dict[str, Any]] = {
    "size": {"size": [1]},
    "no target": {"target": None},
    "class without a name": {"before": [{"index": 1}]},
    "nothing seen": {"after": []},
    "empty network": {"ensemble": [{}]},
    "steps": {"steps": "many"},
    "eps inf": {"eps": math.inf},
    "eps list": {"eps": []},
    "eps object": {"eps": {}},
    "confidence nan": {"confidence": math.nan},
    "confidence": {"confidence": 1e308},
    "huge steps": {"steps": 10**24},
    "index list": {"target": {"index": [], "name": ""}},
    "huge index": {"target": {"index": 10**400, "name": ""}},
    "gradients": {"gradients": "3"},
    "error": {"error": 3},
    "outputs": {"outputs": ["a.png"]},
    "output": {"outputs": {"adversarial": 3}},
    "view": {"view": {"resize": 10**400}},
    "long name": {"after": [_SEEN | {"name": "x" * 1001}]},
    "networks": {"ensemble": [{}] * 200},
    "another schema": {"schema": 2},
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_what_is_no_record_is_not_read_as_one(wrong: str) -> None:
    values = record().to_dict() | _WRONG[wrong]
    with pytest.raises(RecordError) as caught:
        record_of(values)
    assert len(str(caught.value)) <= 200
    with pytest.raises(RecordError):
        check_record(values)


@pytest.mark.parametrize("other", [None, 3, "x", [], [1], {}])
def test_other_json_is_no_record(other: object) -> None:
    with pytest.raises(RecordError):
        check_record(other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "too deep"),
        ('{"crop": Infinity}', "Infinity is no JSON"),
        ("[NaN]", "NaN is no JSON"),
        ("9" * 5000, "4300 digits"),
        (b"\xff", "can't decode"),
        ("", "Expecting value"),
        ("x" * 10**6, "Expecting value"),
    ],
)
def test_what_is_no_json_is_one_short_line(text: str | bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        parse_json(text)
    assert len(str(caught.value)) <= 200


def test_a_chunk_is_a_record_or_refused() -> None:
    made = record()
    read = read_chunk(made.to_chunk())
    assert read == replace(made, outputs={}, seconds=0.0)
    assert read_chunk(None) is None
    for other in ("", "[1", "[1]", "3", "{}"):
        with pytest.raises(RecordError):
            read_chunk(other)


def test_the_schema_in_the_package_is_that_of_the_code() -> None:
    assert record_schema.PATH.read_text(encoding="ascii") == record_schema.text(), "run python -m tests.record_schema"


def test_the_environment_is_recorded() -> None:
    environment = record().environment
    assert environment is not None
    assert environment["threads"] == torch.get_num_threads()
    assert environment["torch"] == torch.__version__
    assert environment["cpu"] == torch.backends.cpu.get_cpu_capability()
    assert environment["gpu"] is None
    assert json.loads(record().to_chunk())["environment"] == environment


def test_a_long_error_is_cut() -> None:
    assert len(Failure("a.jpg", "x" * 10**6, {}).to_dict()["error"]) == 10_000


def test_neither_the_help_nor_the_package_imports_the_library_that_reads_records() -> None:
    code = (
        "import sys, advimg; from advimg.cli import run\n"
        "for command in ((), ('attack',), ('batch',), ('verify',)): run([*command, '--help'])\n"
        "assert 'msgspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "null", "x", "[1]"])
def test_what_is_no_summary_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(text, encoding="ascii")
    assert not is_summary(path)
