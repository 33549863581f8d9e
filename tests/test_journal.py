"""The journal of an output folder: what it holds, what it removes, and what it refuses."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import advimg
from advimg.batches.journal import Journal, read_records
from advimg.batches.journal_entry import Entry, Written, differences, folder_settings
from advimg.batches.journal_files import FolderStore, LineFile
from advimg.batches.plan import Key
from advimg.errors import DiskError, OutputError
from advimg.images.encode import encode_png
from advimg.record import Failure
from advimg.settings import TargetRule
from tests.batches import records_of, write
from tests.conftest import linear_classifier, random_photo

_SEEN = [{"index": 1, "name": "x", "confidence": 0.5}]
_WRITTEN = json.loads(advimg.attack(random_photo(9, 7), 1, model=linear_classifier(), steps=1).record.to_json())
"""A record of an attack that wrote a file, for what those of the tests have in common."""


def record(source: str = "/a.jpg", *, outputs: Iterable[Path] = (), **changes: Any) -> dict[str, Any]:
    """A record of an attack that wrote ``outputs``; of one that failed, if there are none."""
    written = dict(zip(("adversarial", "perturbation"), map(str, outputs), strict=False))
    asked = {"model": "m", "eps": 10, "min_confidence": 0.9, "max_steps": 100, "step_size": 5.0, "momentum": 0.75}
    known = asked | {"loss": "ce", "restarts": 0, "seed": 0, "target": {"index": 1, "name": "x"}, "source_sha256": "0"}
    plain = Failure(source, "broken", known).to_dict()
    if written:
        plain = _WRITTEN | {key: value for key, value in plain.items() if value} | {"error": None, "outputs": written}
        plain |= {"before": _SEEN, "after": _SEEN, "fooled": True, "gradients": 3, "confidence": 0.5}
    hashes = dict.fromkeys(written, hash_of(b"x"))
    return plain | {"adversarial_sha256": hashes.get("adversarial"), "outputs_sha256": hashes} | changes


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def key(source: str = "/a.jpg", target: int | TargetRule = 1, eps: int = 10) -> Key:
    return Key(Path(source), target, eps)


def line(source: str = "/a.jpg", **changes: Any) -> bytes:
    return json.dumps(record(source, **changes)).encode() + b"\n"


def opened(out: Path) -> dict[Key, Entry]:
    with Journal.opened(out) as journal:
        return dict(journal.entries)


def test_what_is_appended_is_read_back(out: Path) -> None:
    files = [out / "a_x.png", out / "a_x_perturbation.png"]
    done, failed = record("/a.jpg", outputs=files), record("/ф\n.jpg", target=None, target_rule="random", eps=3)
    with Journal.opened(out) as journal:
        assert journal.entries == {}
        journal.append(done)
        journal.append(failed)
    assert records_of(out) == [done, failed]
    assert {path.name for path in out.iterdir()} == {"results.jsonl"}
    entries = opened(out)
    assert list(entries) == [key("/a.jpg"), key("/ф\n.jpg", "random", 3)]
    first, second = entries.values()
    assert first == Entry(
        key=key("/a.jpg"),
        source_sha256="0",
        files=(
            Written("adversarial", str(files[0]), hash_of(b"x")),
            Written("perturbation", str(files[1]), hash_of(b"x")),
        ),
        settings=folder_settings(done),
        error=None,
        tried_with=None,
        fooled=True,
        gradients=3,
        checked={},
        delta_e=done["visibility"]["delta_e_mean"],
    )
    assert first == Entry.of(done)
    assert (second.error, second.fooled, second.gradients, second.outputs) == ("broken", False, 0, {})


def test_the_class_with_index_0_is_a_target_like_any_other(out: Path) -> None:
    with Journal.opened(out) as journal:
        journal.append(record(target={"index": 0, "name": "zero"}))
    assert list(opened(out)) == [key(target=0)]


def test_several_records_take_one_write(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("advimg.batches.journal_files.os.fsync", synced.append)
    files = [out / "a_x.png", out / "b_x.png"]
    records = [record("/a.jpg", outputs=files[:1]), record("/c.jpg"), record("/b.jpg", outputs=files[1:])]
    with Journal.opened(out) as journal:
        journal.begin(dict.fromkeys(files, hash_of(b"x")))
        for path in files:
            write(path)
        journal.append(*records)
        assert len(synced) == 1
        journal.append()
        assert records_of(out) == records
    assert all(path.exists() for path in files)


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_torn_last_line_is_cut(out: Path, cut: int) -> None:
    whole, torn = line("/a.jpg"), line("/b.jpg")
    write(out / "results.jsonl", whole + torn[:cut])
    with Journal.opened(out) as journal:
        assert list(journal.entries) == [key("/a.jpg")]
        journal.append(record("/c.jpg"))
    assert [each["source"] for each in records_of(out)] == ["/a.jpg", "/c.jpg"]


def test_a_journal_of_nothing_but_a_torn_line_begins_anew(out: Path) -> None:
    write(out / "results.jsonl", line()[:70])
    with Journal.opened(out) as journal:
        assert journal.entries == {}
        journal.append(record())
    assert records_of(out) == [record()]


_NO_RECORDS = {
    "half an object": b"{\n",
    "no text": b"\xff\xfe\n",
    "another's": b'{"name": "dog"}\n',
    "too deep": b"[" * 100_000 + b"\n",
    "gradients": line("/c.jpg", gradients="3"),
    "error": line("/c.jpg", error=3),
    "outputs": line("/c.jpg", outputs=["../a.png"]),
    "output": line("/c.jpg", outputs={"adversarial": 3}),
    "no target": line("/c.jpg", target=None),
    "no PNG": line("/c.jpg", outputs=[Path("/a.png")], adversarial_sha256=None),
    "nan": line("/c.jpg", confidence=float("nan")),
}


@pytest.mark.parametrize("lost", [b"\0\0\0\0\n", b"\n"])
def test_a_line_whose_content_a_crash_has_lost_is_dropped(out: Path, lost: bytes) -> None:
    write(out / "results.jsonl", line("/a.jpg") + lost + line("/b.jpg"))
    assert list(opened(out)) == [key("/a.jpg"), key("/b.jpg")]
    assert records_of(out) == [record("/a.jpg"), record("/b.jpg")]


@pytest.mark.parametrize("kind", _NO_RECORDS)
def test_a_line_that_is_no_record_is_named_and_left_alone(out: Path, kind: str) -> None:
    junk = _NO_RECORDS[kind]
    torn = line("/d.jpg")[:-20]
    write(out / "results.jsonl", line("/a.jpg") + junk + line("/b.jpg") + torn)  # the torn line has it written anew
    told: list[str] = []
    with Journal.opened(out, warn=told.append) as journal:
        assert list(journal.entries) == [key("/a.jpg"), key("/b.jpg")]
    first, kept, last = (out / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert kept == junk
    assert [(out / json.loads(each)["source"]).resolve() for each in (first, last)] == [Path("/a.jpg"), Path("/b.jpg")]
    (message,) = told
    assert message.startswith(f"{out / 'results.jsonl'}: line 2 is no record (")
    assert len(message) < len(str(out)) + 300
    assert len(read_records(out, warn=told.append)) == 2
    assert told == [message, message]


def test_of_two_records_of_one_attack_the_last_stays(out: Path) -> None:
    write(out / "results.jsonl", line(seed=1) + line("/b.jpg") + line(seed=2) + line("/b.jpg", eps=3))
    assert opened(out)[key()].settings == folder_settings(record(seed=2))
    assert sorted((each["source"], each["eps"], each["seed"]) for each in records_of(out)) == [
        ("/a.jpg", 10, 2),
        ("/b.jpg", 3, 0),
        ("/b.jpg", 10, 0),
    ]


_FOREIGN = {
    "another's lines": b'{"name": "dog", "score": 1}\n{"name": "cat", "score": 2}\n',
    "a list": b"[1, 2]\n",
    "a number": b"3\n",
    "a word": b'"x"\n',
    "null": b"null\n",
    "a document without a newline": b'{"name": "dog"}',
    "a document of many lines": b'{\n  "name": "dog"\n}\n',
    "plain text": b"my notes\nof today\n",
    "a picture": encode_png(random_photo(5, 5).levels),
}


@pytest.mark.parametrize("kind", _FOREIGN)
def test_a_file_that_is_no_journal_is_refused_and_stays_as_it_was(out: Path, kind: str) -> None:
    path = write(out / "results.jsonl", _FOREIGN[kind])
    with pytest.raises(OutputError, match="no journal of advimg batch"), Journal.opened(out):
        pass
    assert path.read_bytes() == _FOREIGN[kind]
    assert list(out.iterdir()) == [path]


def test_a_folder_named_like_the_journal_is_one_error(out: Path) -> None:
    (out / "results.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"cannot read .*results\.jsonl"), Journal.opened(out):
        pass


def test_dropped_records_go_at_once_and_their_files_at_the_end(out: Path) -> None:
    old, kept = write(out / "sub/a_x.png"), write(out / "b_x.png")
    write(out / "results.jsonl", line("/a.jpg", outputs=[old]) + line("/b.jpg", outputs=[kept]))
    with Journal.opened(out) as journal:
        journal.remove([key("/a.jpg")])
        assert list(journal.entries) == [key("/b.jpg")]
        assert [each["source"] for each in records_of(out)] == ["/b.jpg"]
        assert journal.begin({old: hash_of(b"new"), out / "c_x.png": hash_of(b"new")}) == {old}
        assert old.exists()
        journal.append(record("/c.jpg"))
    assert not old.exists()
    assert kept.exists()
    assert [each["source"] for each in records_of(out)] == ["/b.jpg", "/c.jpg"]


def test_a_dropped_attack_that_is_made_anew_keeps_its_files(out: Path) -> None:
    old, beside = write(out / "a_x.png"), write(out / "a_x_perturbation.png")
    write(out / "results.jsonl", line(outputs=[old, beside]))
    with Journal.opened(out) as journal:
        journal.remove([key()])
        assert journal.begin({old: hash_of(b"new")}) == {old}
        old.write_bytes(b"new")
        journal.append(record(outputs=[old]))
    assert old.read_bytes() == b"new"
    assert not beside.exists()


def test_a_disk_that_refuses_the_new_journal_loses_no_result(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write(out / "a_x.png")
    before = write(out / "results.jsonl", line("../a.jpg", outputs=[Path("a_x.png")])).read_bytes()

    def refuse(*arguments: Any, **options: Any) -> None:
        raise DiskError("full")

    monkeypatch.setattr("advimg.batches.journal_files.write_whole", refuse)
    with pytest.raises(DiskError), Journal.opened(out) as journal:
        journal.remove([key(str(out.parent / "a.jpg"))])
    assert old.exists()
    assert (out / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("outside", ["../precious.png", "sub/../../precious.png"])
def test_a_journal_has_no_hold_over_files_elsewhere(out: Path, outside: str) -> None:
    precious = write(out.parent / "precious.png")
    write(out / "results.jsonl", line(outputs=[out / outside]))
    with pytest.raises(OutputError, match="no journal"), Journal.opened(out):
        pass
    (out / "results.jsonl").unlink()
    list_unfinished(out, outside, b"x")
    assert opened(out) == {}
    assert precious.exists()


def list_unfinished(out: Path, name: object, data: bytes) -> None:
    write(out / ".advimg.unfinished", json.dumps([name, hash_of(data)]).encode() + b"\n")


def test_a_list_has_no_hold_over_files_that_a_link_leads_to(out: Path) -> None:
    precious = write(out.parent / "elsewhere/thesis.txt")
    out.mkdir()
    (out / "link").symlink_to(precious.parent)
    (out / "thesis.png").symlink_to(precious)
    for name in ("link/thesis.txt", "thesis.png", "link"):
        list_unfinished(out, name, b"x")
        assert opened(out) == {}
    assert precious.exists()
    assert {path.name for path in out.iterdir()} == {"link", "thesis.png"}


def test_a_list_has_no_hold_over_a_file_of_other_content(out: Path) -> None:
    notes = write(out / "notes.txt", b"mine")
    names: list[object] = ["notes.txt", ["notes.txt"], {}, None]
    for name in names:
        list_unfinished(out, name, b"of advimg")
        assert opened(out) == {}
    write(out / ".advimg.unfinished", b'"notes.txt"\n')  # as earlier versions wrote it
    assert opened(out) == {}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"notes.txt": b"mine"}
    assert notes.exists()


def test_a_record_has_no_hold_over_a_file_of_other_content(out: Path) -> None:
    theirs, linked = write(out / "a_x.png", b"mine"), write(out.parent / "elsewhere/b_x.png")
    (out / "link").symlink_to(linked.parent)
    outputs = {"/a.jpg": [theirs], "/b.jpg": [out / "link/b_x.png"]}
    write(out / "results.jsonl", b"".join(line(source, outputs=files) for source, files in outputs.items()))
    with Journal.opened(out) as journal:
        journal.remove(list(journal.entries))
        assert journal.begin({out / "a_x.png": hash_of(b"new"), out / "link/b_x.png": hash_of(b"new")}) == set()
    assert theirs.read_bytes() == b"mine"
    assert linked.exists()


def test_a_lock_that_is_a_link_is_refused(out: Path) -> None:
    precious = write(out.parent / "thesis.txt", b"mine")
    out.mkdir()
    (out / ".advimg.lock").symlink_to(precious)
    with pytest.raises(OutputError, match="is a link"), Journal.opened(out):
        pass
    assert precious.read_bytes() == b"mine"


def test_listed_files_without_a_record_go_at_the_end_and_others_never(out: Path) -> None:
    foreign = write(out / "foreign.png", b"mine")
    listed, recorded, changed = out / "listed.png", out / "recorded.png", out / "changed.png"
    with Journal.opened(out) as journal:
        assert journal.begin(dict.fromkeys([listed, recorded, foreign, changed], hash_of(b"x"))) == set()
        write(listed)
        write(recorded)
        write(changed, b"by someone")
        write(out / "later.png")
        journal.append(record(outputs=[recorded]))
    assert {path.name for path in out.iterdir()} == {
        "changed.png",
        "foreign.png",
        "recorded.png",
        "later.png",
        "results.jsonl",
    }


_KILLED = """
import json, os, sys
from pathlib import Path
from advimg.batches.journal import Journal
out = Path(sys.argv[1])
with Journal.opened(out) as journal:
    paths = [out / name for name in ("sub/claimed.png", "recorded.png", "foreign.png", "never.png")]
    journal.begin(dict.fromkeys(paths, sys.argv[3]))
    for path in paths[:2]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (out / "sub" / f".advimg-{os.getpid()}-abcd.tmp").write_bytes(b"half")
    journal.append(json.loads(sys.argv[2]))
    os._exit(9)
"""


def test_the_next_run_removes_what_a_killed_one_left_and_nothing_else(out: Path) -> None:
    foreign = write(out / "foreign.png", b"mine")
    later = out / "sub/later.png"
    recorded = json.dumps(record(outputs=[out / "recorded.png"]))
    assert (
        subprocess.run([sys.executable, "-c", _KILLED, str(out), recorded, hash_of(b"x")], check=False).returncode == 9
    )
    assert {path.name for path in out.iterdir()} > {".advimg.lock", ".advimg.unfinished"}
    write(later)
    with Journal.opened(out) as journal:
        assert list(journal.entries) == [key()]
        assert journal.begin(dict.fromkeys(out.rglob("*.png"), hash_of(b"y"))) == set()
    left = {path for path in out.rglob("*") if path.is_file()}
    assert left == {foreign, later, out / "recorded.png", out / "results.jsonl"}
    assert foreign.read_bytes() == b"mine"


_HOLDING = """
import sys
from pathlib import Path
from advimg.batches.journal import Journal
with Journal.opened(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_while_one_writes(out: Path) -> None:
    write(out / "results.jsonl", line() + b"torn")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDING, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"open"
        (out / "results.jsonl").write_bytes(line() + b"torn")
        with pytest.raises(OutputError, match="another advimg batch is writing"), Journal.opened(out):
            pass
        assert (out / "results.jsonl").read_bytes() == line() + b"torn"
        holder.communicate()
    assert list(opened(out)) == [key()]


def test_a_folder_that_nothing_came_of_is_left_as_it_was(out: Path) -> None:
    with Journal.opened(out):
        assert out.is_dir()
    assert not out.exists()
    out.mkdir()
    with Journal.opened(out):
        pass
    assert list(out.iterdir()) == []


def test_an_error_in_a_run_leaves_a_closed_and_whole_journal(out: Path) -> None:
    def fail() -> None:
        with Journal.opened(out) as journal:
            journal.append(record())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in out.iterdir()] == ["results.jsonl"]
    assert list(opened(out)) == [key()]


class _Full(LineFile):
    """A file on a disk that takes no more than half of what is written; then none of it, or an error."""

    def __init__(self, path: Path, *, fails: bool) -> None:
        super().__init__(path)
        self._fails = fails

    def write(self, data: Any, /) -> int:
        written = super().write(data[: len(data) // 2])
        if self._fails:
            raise OSError(28, "No space left on device")
        return written


def store_of(journal: Journal) -> FolderStore:
    assert isinstance(journal._store, FolderStore)
    return journal._store


@pytest.mark.parametrize("fails", [True, False])
def test_a_partial_write_leaves_the_journal_whole(out: Path, fails: bool) -> None:
    with Journal.opened(out) as journal:
        journal.append(record("/a.jpg"))
        store = store_of(journal)
        whole, store._file = store._file, _Full(out / "results.jsonl", fails=fails)
        with pytest.raises(DiskError, match="No space left"):
            journal.append(record("/b.jpg"), record("/d.jpg"))
        assert records_of(out) == [record("/a.jpg")]
        store._file.close()
        store._file = whole
        journal.append(record("/c.jpg"))
    assert [each["source"] for each in records_of(out)] == ["/a.jpg", "/c.jpg"]


def test_an_attack_whose_record_did_not_fit_leaves_no_files(out: Path) -> None:
    path = out / "a_x.png"
    with Journal.opened(out) as journal:
        journal.append(record("/b.jpg"))
        journal.begin({path: hash_of(b"x")})
        write(path)
        store_of(journal)._file = _Full(out / "results.jsonl", fails=True)
        with pytest.raises(DiskError):
            journal.append(record(outputs=[path]))
    assert [path.name for path in out.iterdir()] == ["results.jsonl"]


def test_changed_settings_are_named() -> None:
    one, other = map(folder_settings, (record(), record(seed=3, max_steps=7, device="cuda", precision="bf16")))
    assert differences(one, one) == []
    assert differences(one, other) == ["seed 0 there, 3 here", "max_steps 100 there, 7 here"]
