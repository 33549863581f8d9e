"""Checkpoints that are damaged, odd or made to do harm: each is one line, and memory stays bounded."""

import io
import resource
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor
from torchvision import models

from advimg.classifiers.load import load_classifier
from advimg.classifiers.sources.state_dict import read_state_dict
from advimg.errors import AdvimgError, ClassifierError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(1)
    state: State = models.squeezenet1_1(weights=None).state_dict()
    return state


def itself(_: State) -> object:
    wrapper: dict[str, object] = {}
    wrapper["model"] = wrapper
    return wrapper


def deep(state: State) -> object:
    """Return a state dict below ten thousand others."""
    wrapper: object = state
    for _ in range(10_000):
        wrapper = {"model": wrapper}
    return wrapper


def shadowed(state: State) -> object:
    """Return one whose attributes take the place of its methods."""
    odd = OrderedDict(state)
    odd.__dict__.update(keys=1, values=2, _metadata={"": {"version": "x"}, "features.0": 3})
    return odd


ORDINARY = "is not an ordinary tensor"
_ODD: dict[str, tuple[Callable[[State], object], str]] = {
    "head of strides of 0": (
        lambda state: (
            state
            | {
                "classifier.1.weight": torch.zeros(1).expand(3_000_000, 512, 1, 1),
                "classifier.1.bias": torch.zeros(1).expand(3_000_000),
            }
        ),
        f"classifier.1.weight {ORDINARY}",
    ),
    "a large head without inputs": (
        lambda state: (
            state
            | {"classifier.1.weight": torch.zeros(9_000_000, 0, 1, 1), "classifier.1.bias": torch.zeros(9_000_000)}
        ),
        "classifier.1.weight is [9000000, 0, 1, 1], not [1000, 512, 1, 1]",
    ),
    "meta": (lambda state: state | {"classifier.1.bias": torch.zeros(1000, device="meta")}, ORDINARY),
    "sparse": (lambda state: state | {"classifier.1.bias": torch.ones(1000).to_sparse()}, ORDINARY),
    "itself": (itself, "is no state dict"),
    "a tuple as key": (lambda state: state | {("classifier", 1): torch.zeros(1)}, "is no state dict"),
    "a number as key": (lambda _: {1: torch.zeros(1)}, "is no state dict"),
    "nothing": (lambda _: {}, "is no state dict"),
    "prefixes": (lambda _: {"module." * 3000 + "a": torch.zeros(1)}, "do not fit the network: "),
    "lines": (lambda state: state | {"a\nb\x1b[31m": torch.zeros(1)}, r"'a\nb\x1b[31m' is not known"),
}


def load(path: Path) -> None:
    load_classifier("squeezenet1_1", weights=path, device="cpu")


def assert_one_line(caught: pytest.ExceptionInfo[ClassifierError], message: str) -> None:
    text = str(caught.value)
    assert message in text
    assert text.isprintable()
    assert len(text) < 400


@pytest.mark.parametrize("kind", _ODD)
def test_an_odd_checkpoint_is_one_line_and_no_warning(tmp_path: Path, state: State, kind: str) -> None:
    make, message = _ODD[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(make(state), tmp_path / "odd.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ClassifierError) as caught:
            load(tmp_path / "odd.pt")
    assert_one_line(caught, message)


@pytest.mark.parametrize("make", [shadowed, deep])
def test_what_is_odd_but_holds_the_weights_is_read(
    tmp_path: Path, state: State, make: Callable[[State], object]
) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(60_000)
    try:
        torch.save(make(state), tmp_path / "odd.pt")
    finally:
        sys.setrecursionlimit(limit)
    read = read_state_dict(tmp_path / "odd.pt").tensors
    assert all(torch.equal(read[key], state[key]) for key in state)
    load(tmp_path / "odd.pt")


def test_a_file_that_unpacks_to_more_than_the_network_can_hold_is_not_unpacked(tmp_path: Path, state: State) -> None:
    path = tmp_path / "bomb.pt"
    torch.save(state, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data/extra", bytes(400 << 20))
    with pytest.raises(ClassifierError) as caught:
        load(path)
    assert_one_line(caught, "bomb.pt are too large for this network: more than 3")


def test_a_file_much_larger_than_the_network_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(ClassifierError) as caught:
        load(path)
    assert_one_line(caught, "large.pt are too large for this network: more than 3")


def test_zeros_by_the_billion_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "zeros.pt"
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x04\x85R.")  # 16 GB
    with pytest.raises(ClassifierError) as caught:
        load(path)
    assert_one_line(caught, "zeros.pt is not a plain state dict")


# Bytes that were changed.


def _small() -> State:
    return {"conv.weight": torch.arange(54.0).view(2, 3, 3, 3), "conv.bias": torch.ones(2), "n": torch.tensor(3)}


def _saved(**options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save({"state_dict": OrderedDict(_small())}, stream, **options)
    return stream.getvalue()


_FILES = {
    ".pth": _saved(),
    ".pt": _saved(_use_new_zipfile_serialization=False),
    ".safetensors": save(_small()),
}
_change = st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=4))


def _pickle_of(data: bytearray) -> tuple[int, int]:
    """Return where the pickle lies in a checkpoint: there, a change does most."""
    begin = data.find(b"\x80\x02")
    return begin, data.find(b".", data.rfind(b"Rq")) if begin >= 0 else len(data)


@settings(max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(_FILES)), st.lists(_change, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_changed_bytes_are_read_or_refused(
    tmp_path: Path, suffix: str, changes: list[tuple[int, bytes]], inside: bool, shorter: bool
) -> None:
    data = bytearray(_FILES[suffix])
    begin, end = _pickle_of(data) if inside else (0, len(data))
    begin = max(begin, 0)
    for place, written in changes:
        at = begin + place % max(1, end - begin)
        data[at : at + (0 if shorter else len(written))] = written
    path = tmp_path / f"changed{suffix}"
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(), suppress(AdvimgError):
        warnings.simplefilter("error")
        read = read_state_dict(path, most=1 << 20).tensors
        assert sum(tensor.nbytes for tensor in read.values()) <= 1 << 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
