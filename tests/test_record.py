"""The record's JSON."""

import json
from dataclasses import replace
from typing import Any

import pytest

import advimg
from advimg.record import Failure, Record, read_chunk
from tests.conftest import linear_classifier, random_photo

# The contract: these keys, in this order; further settings may stand before "mask_sha256".
KEYS = [
    *("advimg", "source", "source_sha256", "size", "model", "weights", "weights_sha256", "view", "target"),
    *("target_rule", "ensemble", "checked", "norm", "eps", "max_eps", "eps_tried", "seed", "min_confidence"),
    *("max_steps", "step_size", "momentum", "attack", "loss", "restarts", "transform", "transfer", "mask_sha256"),
    *(
        "device",
        "precision",
        "l2",
        "before",
        "after",
        "fooled",
        "confidence",
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
    for name in ("attack", "transform"):
        del values[name]
    read = Record.from_dict(values)
    assert (read.attack, read.transform) == ("pgd", None)
    del values["seed"]
    with pytest.raises(KeyError):
        Record.from_dict(values)


def test_a_record_of_before_visibility_was_measured_has_none() -> None:
    values = record().to_dict()
    measured = values.pop("visibility")
    assert list(measured) == ["delta_e_mean", "delta_e_p95", "ssim"]
    assert Record.from_dict(values).visibility is None
    assert Record.from_dict(values | {"visibility": measured}).visibility == record().visibility


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
        read = Record.from_dict(json.loads(made.to_json()) | {"adversarial_sha256": "0"})
        assert read == made
        assert read.to_json() == made.to_json()
        assert read.least_fooled == made.least_fooled


@pytest.mark.parametrize(
    "wrong", [{"size": [1]}, {"target": None}, {"before": [{"index": 1}]}, {"ensemble": [{}]}, {"steps": "many"}]
)
def test_what_is_no_record_is_not_read_as_one(wrong: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Record.from_dict(record().to_dict() | wrong)


def test_reading_a_chunk_takes_what_it_can() -> None:
    chunk = record().to_chunk()
    assert read_chunk(chunk) == json.loads(chunk)
    for other in (None, "", "[1", "[1]", "3"):
        assert read_chunk(other) == {}
