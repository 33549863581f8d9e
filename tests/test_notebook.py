"""The notebook runs from top to bottom, offline, and what it says is so."""

import copy
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "examples" / "optical_illusion.ipynb"
KEPT = nbformat.read(NOTEBOOK, as_version=4)

# A kernel that asks for anything beyond this machine fails.
_OFFLINE = """
import socket
_connect = socket.socket.connect
def _refuse(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the notebook asks for {address}")
    return _connect(self, address)
socket.socket.connect = _refuse
"""


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(cell: Any) -> int:
    return sum("image/jpeg" in output.get("data", {}) for output in cell.outputs)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Any:
    notebook = copy.deepcopy(KEPT)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    notebook.cells.insert(0, nbformat.v4.new_code_cell(_OFFLINE))
    folder = tmp_path_factory.mktemp("notebook")
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    assert list(folder.iterdir()) == []
    del notebook.cells[0]
    return notebook


def cell_with(notebook: Any, text: str) -> str:
    (found,) = [cell for cell in code_cells(notebook) if text in cell.source]
    return printed(found)


def test_what_is_kept_is_small_and_whole() -> None:
    assert NOTEBOOK.stat().st_size < 400_000
    counts = [cell.execution_count for cell in code_cells(KEPT)]
    assert counts == list(range(1, len(counts) + 1))
    assert all(output.output_type != "error" for cell in code_cells(KEPT) for output in cell.outputs)


def test_every_cell_runs_and_gives_what_is_kept(ran: Any) -> None:
    assert len(code_cells(ran)) == len(code_cells(KEPT))
    for cell, kept in zip(code_cells(ran), code_cells(KEPT), strict=True):
        assert not [
            output for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr"
        ]
        assert pictures(cell) == pictures(kept)
        assert bool(printed(cell)) == bool(printed(kept))


@pytest.mark.parametrize("which", ["ran", "kept"])
def test_what_the_text_claims_is_so(which: str, request: pytest.FixtureRequest) -> None:
    notebook = request.getfixturevalue("ran") if which == "ran" else KEPT
    cats, coffees = cell_with(notebook, '("coffee", coffee):\n    print(f"the').split("the coffee:")
    assert len(re.findall(r"% .*\b(cat|tabby)\b", cats)) >= 2
    assert "espresso" in coffees.splitlines()[1]

    steps = re.findall(r"step (\d+): +([\d.]+)% broccoli, loss ([\d.]+)", cell_with(notebook, "def watch"))
    assert [int(step) for step, *_ in steps] == list(range(len(steps)))
    assert 2 <= len(steps) <= 10
    assert float(steps[0][1]) < 1
    assert float(steps[-1][1]) > 90
    assert float(steps[-1][2]) < float(steps[0][2])

    verdict = cell_with(notebook, "largest change of any colour")
    assert "broccoli" in verdict.splitlines()[0]
    largest = min(4, int(steps[-1][0]))  # eps is 4, and a step is one level
    assert f"largest change of any colour of any pixel: {largest} of" in verdict

    reached = re.findall(r"→ (\w+) ([\d.]+)%", cell_with(notebook, "others = []"))
    assert [name for name, _ in reached] == ["printer", "convertible", "broccoli"]

    budgets = re.findall(
        r"ε = +(\d+): broccoli ([\d.]+)%, (\d+) steps?, largest change (\d+)", cell_with(notebook, "budgets =")
    )
    assert [int(eps) for eps, *_ in budgets] == [1, 4, 10, 40]
    assert all(int(change) <= int(eps) for eps, _, _, change in budgets)
    assert int(budgets[0][2]) > int(budgets[1][2])

    assert "the least is 1" in cell_with(notebook, 'eps="auto"')
    assert "holds: True; the network sees: broccoli" in cell_with(notebook, "advimg.verify")
