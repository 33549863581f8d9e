"""A batch run under the eyes of a person: what ``batch`` and ``sweep`` share."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from advimg.batch.attacker import Attacker, OneDevice
from advimg.batch.devices import SeveralDevices
from advimg.batch.options import Options
from advimg.batch.run import Batch
from advimg.classifiers.spec import ModelSpec
from advimg.cli.console import Console
from advimg.cli.following import following
from advimg.cli.networks import load_all
from advimg.cli.stopping import stop_on_signals
from advimg.errors import DeviceError, DiskError, OutputError
from advimg.settings import Settings


def options_of(given: Mapping[str, Any], settings: Settings) -> Options:
    """Return how a batch goes about its attacks, as the command line says; PNGs hold their record if it does not."""
    return Options(
        settings=settings,
        precision=given["precision"],
        batch_size=given["batch_size"],
        metadata=given.get("metadata", True),
        max_pixels=given["max_pixels"],
        force=given["force"],
        retry_failed=given["retry_failed"],
    )


def attacker_of(
    attacked: Sequence[ModelSpec], watching: Sequence[ModelSpec], given: Mapping[str, Any], console: Console
) -> Attacker:
    """Return who makes the attacks: this process on one device, or a process on each of several.

    Raises:
        UsageError: no such device.
        ClassifierError: a classifier cannot be loaded, or this machine has no such device.
    """
    devices, progress = given["devices"], not given["quiet"]
    if len(devices) > 1:
        return SeveralDevices(devices, attacked, watching, progress=progress, warn=console.warn)
    classifiers, check_on = (load_all(specs, devices[0], progress=progress) for specs in (attacked, watching))
    return OneDevice(classifiers, check_on)


def places_of(attacker: Attacker) -> list[str]:
    """Say which classifiers are attacked where, a line each."""
    devices = ", ".join(map(str, attacker.devices))
    return [f"{classifier.name} on {devices}" for classifier in attacker.classifiers]


def perform(batch: Batch, console: Console, *, as_json: bool) -> bool:
    """Run a batch; with ``as_json``, print each record as a line on stdout.

    Returns:
        Whether it was brought to its end; if not, it was interrupted.

    Raises:
        DiskError: the disk takes no more.
        OutputError: stdout was closed.
        ClassifierError: the network does not behave like a classifier.
        DeviceError: a device cannot be used, or none is left.
    """
    tally = batch.tally
    if tally.earlier:
        console.say(f"{tally.earlier} of {tally.total} were done by an earlier run")
    with stop_on_signals() as stop, following(tally, console, silent=as_json) as follow:

        def ended(record: dict[str, Any]) -> None:
            follow(record)
            if as_json:
                _print(json.dumps(record))

        try:
            batch.run(stop=stop.event, ended=ended)
        except DiskError as error:
            raise DiskError(
                f"{error}; {tally.done} of {tally.total} are done; once there is room, run the same command again to "
                "go on"
            ) from error
        except DeviceError as error:
            raise DeviceError(
                f"{error}; {tally.done} of {tally.total} are done; run the same command again to go on"
            ) from error
    return not stop.interrupted or tally.done == tally.total


def tell_interrupted(batch: Batch, console: Console) -> None:
    """Say that a batch was interrupted, and how to go on."""
    tally = batch.tally
    console.error(f"interrupted; {tally.done} of {tally.total} are done; run the same command again to go on")


def _print(line: str) -> None:
    try:
        click.echo(line)
    except BrokenPipeError:
        # Else Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError("stdout was closed; what is done is in the journal, the same command goes on") from None
