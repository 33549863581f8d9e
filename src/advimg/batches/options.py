"""What is the same for all attacks of a batch."""

from dataclasses import dataclass, replace
from typing import Any

from advimg.engine.capacity import BatchSize
from advimg.errors import UsageError
from advimg.registry import ATTACKS
from advimg.settings import MAX_PIXELS, Precision, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is the same for all attacks of a run.

    Attributes:
        settings: of the attacks; an item may have an eps of its own.
        precision: what gradients are computed in.
        batch_size: how many pictures share a pass: photos, and what changes that they are to survive make of them.
        metadata: whether PNGs hold their record.
        max_pixels: the most pixels a photo may have.
        force: whether other settings in the folder, and files that are not its journal's, are no obstacle.
        retry_failed: whether attacks that failed in an earlier run are made again.
        worst_case: the names of attacks that are made on each photo in turn, until one reaches the target; the attack
            of the settings is then the first of them. Empty for that alone.
        pack: how many attacks share a tar archive; None where each has files of its own.

    Raises:
        UsageError: the batch size is neither "auto" nor a number from 1, there is no such attack, or an archive is to
            hold less than one.
    """

    settings: Settings
    precision: Precision = "auto"
    batch_size: BatchSize = "auto"
    metadata: bool = True
    max_pixels: int = MAX_PIXELS
    force: bool = False
    retry_failed: bool = False
    worst_case: tuple[str, ...] = ()
    pack: int | None = None

    def tried_with(self, device: str) -> dict[str, Any]:
        """Return what a failure may depend on besides the photo and the settings; its journal line holds it.

        The messages of such failures name these options. Once one of them is changed, the attack is made again.
        """
        return {"max_pixels": self.max_pixels, "device": device, "force": self.force}

    def __post_init__(self) -> None:
        if self.batch_size != "auto" and (type(self.batch_size) is not int or self.batch_size < 1):
            raise UsageError(f"batch size {self.batch_size!r}: give a whole number from 1, or auto")
        if self.pack is not None and (type(self.pack) is not int or self.pack < 1):
            raise UsageError(f"pack {self.pack!r}: give a whole number from 1, or leave it out")
        for number, attack in enumerate(self.worst_case):
            ATTACKS[attack]  # raises where there is none
            if attack in self.worst_case[:number]:
                raise UsageError(f"worst case: {attack} is named twice")
        if self.worst_case:
            object.__setattr__(self, "settings", replace(self.settings, attack=self.worst_case[0]))

    @property
    def recorded(self) -> dict[str, Any]:
        """What a journal's line holds of the options of every attack, failed or not."""
        return {"worst_case": list(self.worst_case)} if self.worst_case else {}
