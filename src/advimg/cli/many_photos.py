"""A batch run under the eyes of a person: what ``batch`` and ``sweep`` share."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from advimg.batch.executor import Executor, InProcess
from advimg.batch.options import Options
from advimg.batch.process_executor import SeveralProcesses
from advimg.batch.run import Batch
from advimg.classifiers.spec import ModelSpec
from advimg.cli.console import Console
from advimg.cli.networks import load_all
from advimg.cli.progress import show_progress
from advimg.cli.signals import stop_on_signals
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


def executor_of(
    attacked: Sequence[ModelSpec], watching: Sequence[ModelSpec], given: Mapping[str, Any], console: Console
) -> Executor:
    """Return who makes the attacks: this process on one device, or a process on each of several.

    Raises:
        UsageError: no such device.
        ClassifierError: a classifier cannot be loaded, or this machine has no such device.
    """
    devices, progress = given["devices"], not given["quiet"]
    if len(devices) > 1:
        return SeveralProcesses(devices, attacked, watching, progress=progress, warn=console.warn)
    classifiers, check_on = (load_all(specs, devices[0], progress=progress) for specs in (attacked, watching))
    return InProcess(classifiers, check_on)


def places_of(executor: Executor) -> list[str]:
    """Say which classifiers are attacked where, a line each."""
    devices = ", ".join(map(str, executor.devices))
    return [f"{classifier.name} on {devices}" for classifier in executor.classifiers]


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
    stats = batch.stats
    if stats.earlier:
        console.say(f"{stats.earlier} of {stats.total} were done by an earlier run")
    with stop_on_signals() as stop, show_progress(stats, console, silent=as_json) as follow:

        def ended(record: dict[str, Any]) -> None:
            follow(record)
            if as_json:
                _print(json.dumps(record))

        try:
            batch.run(stop=stop.event, ended=ended)
        except DiskError as error:
            raise DiskError(
                f"{error}; {stats.done} of {stats.total} are done; once there is room, run the same command again to "
                "go on"
            ) from error
        except DeviceError as error:
            raise DeviceError(
                f"{error}; {stats.done} of {stats.total} are done; run the same command again to go on"
            ) from error
    return not stop.interrupted or stats.done == stats.total


def tell_interrupted(batch: Batch, console: Console) -> None:
    """Say that a batch was interrupted, and how to go on."""
    stats = batch.stats
    console.error(f"interrupted; {stats.done} of {stats.total} are done; run the same command again to go on")


def _print(line: str) -> None:
    try:
        click.echo(line)
    except BrokenPipeError:
        # Else Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError("stdout was closed; what is done is in the journal, the same command goes on") from None
