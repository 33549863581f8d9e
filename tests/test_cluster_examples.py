"""The examples for clusters: what their jobs run is run here, with the variables that Slurm and Kubernetes set."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
from PIL import Image

from advimg.cli.app import app
from tests import referee
from tests.batches import records_of, write
from tests.conftest import sample
from tests.test_readme import ROOT, bash, shell

SBATCH = """#!/usr/bin/env bash
# Runs at once what it is to submit: the script as an array of two tasks, or the command of --wrap.
printf '%s\\n' "$*" >>submitted.txt
for last; do :; done
if [[ " $* " = *" --wrap "* ]]; then exec bash -c "$last"; fi
for id in 0 1; do SLURM_ARRAY_TASK_ID=$id SLURM_ARRAY_TASK_COUNT=2 "$last" & done
wait
echo "123;cluster"
"""
ADVIMG = """#!/bin/sh
trap 'echo stopped >>said.txt; exit 130' TERM
echo "$@" >said.txt
[ "$ENDS_WITH" = never ] || exit "$ENDS_WITH"
while :; do sleep 0.05; done
"""


def script(path: Path, text: str) -> None:
    write(path, text.encode())
    path.chmod(0o755)


@bash
def test_the_slurm_script_attacks_in_two_tasks_and_merges(tmp_path: Path) -> None:
    (tmp_path / "my photos").mkdir()
    for name, photo in (("a", "chelsea.png"), ("b", "coffee.png")):  # of which each of two shards has one
        with Image.open(sample(photo)) as image:
            image.convert("RGB").resize((225, 150)).save(tmp_path / "my photos" / f"{name}.png")
    script(tmp_path / "bin" / "sbatch", SBATCH)
    asked = "PHOTOS='my photos' OUT='my results' TARGET=pelican ADVIMG_MODEL=efficientnet_lite0 ADVIMG_REFINE=0"
    ran = shell(f"{asked} {ROOT}/examples/slurm_array.sh", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "2 of 2 attacks of 2 shards, in my results" in ran.stderr
    array, merge = (tmp_path / "submitted.txt").read_text().splitlines()
    assert array == f"--parsable {ROOT}/examples/slurm_array.sh"
    assert merge.startswith("--dependency=afterany:123 ")
    assert merge.endswith(" --wrap advimg merge my\\ results")
    records = records_of(tmp_path / "my results")
    files = sorted(Path(record["outputs"]["adversarial"]) for record in records)
    assert [file.parent.name for file in files] == ["shard-1-of-2", "shard-2-of-2"]
    assert [referee.judge(file)[0] for file in files] == [144, 144]


@bash
def test_single_tasks_of_slurm_can_be_done_again(tmp_path: Path) -> None:
    script(tmp_path / "advimg", ADVIMG)
    asked = "PATH=$PWD:$PATH ENDS_WITH=0 SHARDS=16 SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_COUNT=2"
    assert shell(f"{asked} {ROOT}/examples/slurm_array.sh", tmp_path).returncode == 0
    assert (tmp_path / "said.txt").read_text().endswith("--shard 8/16\n")


def jobs() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((ROOT / "examples" / "kubernetes_job.yaml").read_text(encoding="utf-8")))


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def variables(job: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(job)["env"]}


def parsed(arguments: list[str]) -> dict[str, Any]:
    """Return what the command line makes of arguments; nothing is run."""
    command = app.get_command(click.Context(app), arguments[0])
    assert command is not None
    return command.make_context(arguments[0], arguments[1:]).params


def test_the_jobs_of_kubernetes_fit_together() -> None:
    batch, merge = jobs()
    assert batch["spec"]["completionMode"] == "Indexed"
    assert variables(batch)["SHARDS"] == str(batch["spec"]["completions"])
    program, *arguments = container(merge)["command"]
    assert (program, parsed(arguments)["folders"]) == ("advimg", (Path("/data/illusions"),))
    assert {each["metadata"]["labels"]["step"] for each in (batch, merge)} == {"batch", "merge"}


@bash
@pytest.mark.parametrize(("code", "told"), [(0, 0), (3, 0), (1, 1), (2, 2)])
def test_the_command_of_kubernetes_names_the_shard_and_tells_failures(tmp_path: Path, code: int, told: int) -> None:
    batch, _ = jobs()
    script(tmp_path / "advimg", ADVIMG)
    environment = os.environ | variables(batch) | {"JOB_COMPLETION_INDEX": "4", "ENDS_WITH": str(code)}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    ran = subprocess.run(container(batch)["command"], cwd=tmp_path, env=environment, check=False)
    assert ran.returncode == (1 if told else 0)
    given = parsed((tmp_path / "said.txt").read_text().split())
    assert (given["shard"], given["out_dir"], given["paths"]) == ("5/16", Path("/data/illusions"), ("/data/photos",))


@bash
def test_the_command_of_kubernetes_hands_a_signal_on(tmp_path: Path) -> None:
    batch, _ = jobs()
    script(tmp_path / "advimg", ADVIMG)
    environment = os.environ | variables(batch) | {"JOB_COMPLETION_INDEX": "0", "ENDS_WITH": "never"}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    said = tmp_path / "said.txt"
    with subprocess.Popen(container(batch)["command"], cwd=tmp_path, env=environment) as process:
        while not (said.exists() and said.read_text().endswith("\n")):
            time.sleep(0.02)
        time.sleep(0.1)  # until the shell knows its number
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 130
    assert said.read_text().splitlines()[1:] == ["stopped"]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_command_of_kubernetes() -> None:
    *_, text = container(jobs()[0])["command"]
    ran = subprocess.run(["shellcheck", "-s", "sh", "-"], input=text, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
