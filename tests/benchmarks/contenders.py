"""Those that the benchmark ``folder`` compares: commands that attack a folder of photos, and what they leave there."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.measure import advimg_command, progress, run_process
from tests.benchmarks.peer_folder import TARGETS
from tests.benchmarks.peers import Peer

EXIT_CODES = (0, 3)
"""Those of a batch that went well: that a target is not reached is a result as well."""


class Made(NamedTuple):
    """A file that an attack made."""

    png: Path
    photo: Path
    target: int


@dataclass(frozen=True)
class Contender:
    """A command that attacks a folder of photos.

    Attributes:
        name: whose, and how many steps, if it takes them all.
        command: from the folder of photos and that for the files to the program and its arguments.
        read: from the same two, once it has ended, to what it made.
        crops: whether its files have the size of the crop and not the photo's.
    """

    name: str
    command: Callable[[Path, Path], list[str]]
    read: Callable[[Path, Path], list[Made]]
    crops: bool

    def seconds(self, photos: Path) -> float:
        """Attack the photos anew and return how long the process took."""
        progress(f"{self.name}: {photos.name} photos ...")
        out = self._out(photos)
        shutil.rmtree(out, ignore_errors=True)
        return run_process(self.command(photos, out), expect=EXIT_CODES).seconds

    def made(self, photos: Path) -> list[Made]:
        """Return what the last process made of the photos."""
        return self.read(photos, self._out(photos))

    def _out(self, photos: Path) -> Path:
        return photos.with_name(f"{photos.name} {self.name}")


def advimg(eps: int, device: str, *, refine: int) -> Contender:
    """Return advimg with its default settings but for the steps of refinement."""

    def command(photos: Path, out: Path) -> list[str]:
        return [*advimg_command(), *batch_arguments(photos, out, eps, device, refine=refine)]

    return Contender(f"advimg batch --refine {refine}", command, _in_journal, crops=False)


def batch_arguments(photos: Path, out: Path, eps: int, device: str, *, refine: int) -> list[str]:
    """Return what advimg is asked for."""
    asked = ["-t", "random", "-m", "efficientnet_lite0", "--eps", str(eps), "--device", device]
    asked += ["--refine", str(refine)]
    return ["batch", str(photos), *asked, "-O", str(out)]


def script_over(peer: Peer, eps: int, device: str) -> Contender:
    """Return the script over another library."""

    def command(photos: Path, out: Path) -> list[str]:
        script = [sys.executable, "-m", "tests.benchmarks.peer_folder", peer.package, str(photos), str(out)]
        return [*script, "--eps", str(eps), "--device", device]

    return Contender(f"{peer.package}, {peer.steps}", command, _in_table, crops=True)


def _in_journal(photos: Path, out: Path) -> list[Made]:
    records = map(json.loads, (out / "results.jsonl").read_text(encoding="ascii").splitlines())
    return [
        Made(out / record["outputs"]["adversarial"], out / record["source"], record["target"]["index"])
        for record in records  # whose paths are relative to the journal
    ]


def _in_table(photos: Path, out: Path) -> list[Made]:
    targets: dict[str, int] = json.loads((out / TARGETS).read_text(encoding="ascii"))
    return [Made(out / name, (photos / name).with_suffix(".jpg"), index) for name, index in targets.items()]
