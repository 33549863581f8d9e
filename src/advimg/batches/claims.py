"""What a journal claims of a file, held against what was found in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from advimg.errors import ExitCode
from advimg.formatting import percent
from advimg.record import NetworkRecord, Prediction, Record
from advimg.verification import Verification, view_differs

Status = Literal["holds", "does_not_hold", "not_checked", "not_reached", "failed"]
"""Of a file: the promise and its record hold; one of them does not; it cannot be told; the record says itself that the
target was not reached, which is so; the attack failed, so there is no file."""

_SAME_CONFIDENCE = 0.02
"""By how much the confidence of one file differs between machines at the most."""
_SAME_LENGTH = 1e-5
"""By how much lengths in L2 differ that are rounded to six digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileVerification:
    """What was found of one attack that a journal records.

    Attributes:
        file: the adversarial PNG; None where the attack failed.
        photo: that was attacked.
        models: those that were attacked.
        status: see :data:`Status`.
        false_claim: whether the record says that the target is reached, and it is not.
        reasons: why it does not hold, cannot be checked, was not reached, or failed; each without a full stop.
        recorded: what the record claims: plain JSON values.
        found: what each model sees, and how much was changed; empty where that could not be found out.
    """

    file: str | None
    photo: str
    models: tuple[str, ...]
    status: Status
    false_claim: bool
    reasons: tuple[str, ...]
    recorded: Mapping[str, Any]
    found: tuple[Verification, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FolderVerification:
    """What was found of all attacks that a folder's journal records, or those of the folders in it.

    Attributes:
        files: one for each attack.
        unread: a line for each journal that has lines which are no records.
    """

    files: tuple[FileVerification, ...]
    unread: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the promise holds for all of them."""
        return self.exit_code == ExitCode.OK

    @property
    def exit_code(self) -> ExitCode:
        """How the command ends."""
        found = {each.status for each in self.files}
        if self.unread or found & {"not_checked", "failed"}:
            return ExitCode.FAILED
        return ExitCode.OK if found <= {"holds"} else ExitCode.NOT_REACHED


def claims_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a journal's record claims, or that the attack failed."""
    names = ("fooled", "error", "target", "target_rule", "norm", "eps", "survive", "linf", "mask_sha256")
    networks = [values, *values["ensemble"]]
    return {
        **{name: values.get(name) for name in (*names, "source_sha256", "adversarial_sha256")},
        "models": [
            {name: network.get(name) for name in ("model", "weights_sha256", "confidence")} for network in networks
        ],
    }


@dataclass(frozen=True, slots=True)
class Differences:
    """In what a file is not as its record says, or as it has to be.

    Attributes:
        false: where the record says that the target is reached.
        wrong: what else does not hold.
        missed: where the target is not reached, as the record says.
    """

    false: tuple[str, ...]
    wrong: tuple[str, ...]
    missed: tuple[str, ...]


def differences_of(record: Record, found: Sequence[Verification], *, altered: bool) -> Differences:
    """Hold a record against what was found.

    Args:
        record: of the journal.
        found: what each model that it names sees.
        altered: whether the bytes are known to be others than those that were recorded, so that the figures are, too.
    """
    kinds: dict[str, list[str]] = {"false": [], "wrong": [], "missed": []}
    kinds["wrong"] += _of_pixels(record, found[0], altered=altered)
    for network, seen in zip(record.attacked, found, strict=True):
        for kind, said in _of_verdicts(record, network, seen, altered=altered):
            kinds[kind].append(said)
    asked = [each.change for each in found[0].survives] == [each.change for each in record.survives]
    if asked and not record.fooled and not any(kinds[kind] for kind in ("false", "wrong", "missed")):
        kinds["wrong"].append("its record says that the target is not reached, but it is")
    return Differences(*(tuple(dict.fromkeys(said)) for said in kinds.values()))


def _of_pixels(record: Record, seen: Verification, *, altered: bool) -> Iterator[str]:
    """Say what does not hold of the change, which is the same for all models."""
    if not seen.same_size:
        yield "its size is not that of its photo"
    elif not seen.within_eps:
        size = f"largest change {seen.linf} levels" if seen.norm == "linf" else f"change of length {seen.l2:.3f} in L2"
        yield f"{size}, more than ε = {seen.eps:g}"
    elif not altered and record.linf != seen.linf:
        yield f"largest change {seen.linf} levels, {record.linf} in its record"
    elif not altered and seen.l2 is not None and abs(record.l2 - seen.l2) > _SAME_LENGTH:
        yield f"change of length {seen.l2:.3f} in L2, {record.l2:.3f} in its record"
    if seen.mask_kept is False:
        yield "it is changed outside of the mask"
    for what, kept in (("transparency", seen.alpha_kept), ("colour profile", seen.profile_kept)):
        if kept is False:
            yield f"its {what} is not the photo's"


def _of_verdicts(
    record: Record, network: NetworkRecord, seen: Verification, *, altered: bool
) -> Iterator[tuple[str, str]]:
    """Yield the kind of each difference, a field of :class:`Differences`, and the difference."""
    wanted = seen.target.name if seen.left is None else f"not {seen.left.name}"
    differs = dict.fromkeys([*seen.record_differs, *view_differs([network], seen.view)])
    if differs:
        yield "wrong", f"preprocessing of {seen.model}: {'; '.join(differs)}"
    first = seen.top5[0]
    there = first.index == seen.target.index
    claimed: dict[str, bool] = {each.change: record.fooled or each.fooled for each in network.survives}
    verdicts: list[tuple[str, bool, bool | None, Prediction]] = [
        ("", there, record.fooled or network.sees_target, first)
    ]
    verdicts += [(f" after {each.change}", each.fooled, claimed.get(each.change), each.seen) for each in seen.survives]
    for when, reached, claim, top in verdicts:
        told = f"{seen.model} sees {top.name} {percent(top.confidence)}{when}"
        if not reached and claim:
            yield "false", f"its record says {wanted}, but {told}"
        elif not reached and claim is None:
            yield "wrong", f"{told}, and its record says nothing of that"
        elif not reached:
            yield "missed", told
        elif claim is False:
            yield "wrong", f"its record says that {wanted} is not reached{when}, but {told}"
    if altered or not there:
        return
    if seen.left is not None and network.target.index != seen.target.index:
        yield "wrong", f"its record says {network.target.name}, but {seen.model} sees {seen.target.name}"
    elif network.confidence > seen.confidence + _SAME_CONFIDENCE:
        by = f"of {seen.model} for {seen.target.name}"
        yield "wrong", f"confidence {by} {percent(seen.confidence)}, {percent(network.confidence)} in its record"
