"""The README and the other pages are true: commands run, tables, links and figures are current, examples work."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from PIL import Image

import advimg
from advimg.cli.app import app
from tests import referee
from tests.benchmarks.__main__ import main as benchmarks
from tests.conftest import sample

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
}
README = PAGES["README.md"]


def shell_lines(page: str) -> list[str]:
    """Return the lines of a page's shell blocks, which may stand in a list."""
    blocks = re.findall(r"^ *```sh\n(.*?)```", page, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


SHELL = shell_lines(README)
BENCHMARKS = sorted(
    {line for page in PAGES.values() for line in shell_lines(page) if line.startswith("python -m tests.benchmarks")}
)
SET_UP = (
    "python3 -m venv .venv && .venv/bin/pip install -e '.[demo]' && .venv/bin/advimg demo",
    ".venv/bin/pip install -e '.[test]' && .venv/bin/pytest -n auto",
)

bash = pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="needs bash")


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line in bash, with this interpreter's advimg."""
    binaries = folder / "bin"
    binaries.mkdir(exist_ok=True)
    script = binaries / "advimg"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m advimg "$@"\n')
    script.chmod(0o755)
    environment = os.environ | {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Image.open(sample("chelsea.png")) as image:
        image.convert("RGB").save(tmp_path / "dog.jpg")
        (tmp_path / "holiday").mkdir()
        image.convert("RGB").resize((225, 150)).save(tmp_path / "holiday" / "cat.jpg")
    return tmp_path


def test_the_set_up_commands_are_there_and_their_extras_too() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in SET_UP:
        assert command in SHELL
    assert {"demo", "test"} <= set(project["optional-dependencies"])
    assert "advimg" in project["scripts"]
    assert SET_UP[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@bash
def test_the_commands_run_one_after_the_other(folder: Path) -> None:
    lines = [line for line in SHELL if line.startswith(("advimg", "mkdir"))]
    assert len(lines) >= 6
    for line in lines:
        # The default network's weights are a download; the bundled one stands in for it.
        offline = line if "lite0" in line or " attack " not in line else f"{line} -m efficientnet_lite0"
        ran = shell(offline, folder)
        assert ran.returncode == 0, (line, ran.stderr)
    assert referee.judge(folder / "dog_pelican.png")[0] == 144
    assert referee.judge(folder / "illusions" / "dog_pelican.png")[0] == 144
    assert referee.judge(folder / "broccoli.png")[0] == 937
    assert referee.judge(folder / "fooled" / "cat_pelican.png")[0] == 144
    assert len((folder / "fooled" / "results.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("kind", ["bash", "zsh", "fish"])
def test_the_completion_scripts_are_printed(kind: str) -> None:
    assert any(f"_ADVIMG_COMPLETE={kind}_source advimg" in line for line in SHELL)
    if kind == "bash" and shutil.which("bash") is None:
        pytest.skip("bash's script asks bash for its version")
    code = "import sys; sys.argv = ['advimg']; from advimg.cli import main; main()"
    environment = os.environ | {"_ADVIMG_COMPLETE": f"{kind}_source"}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "_ADVIMG_COMPLETE" in ran.stdout


def test_the_python_example_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    assert referee.judge(folder / "pelican.png")[0] == 144
    assert referee.linf(folder / "pelican.png", folder / "dog.jpg") <= 4


def test_the_table_of_commands_is_current() -> None:
    named = re.findall(r"^\| `(\w+)[^`]*` \|", README, re.MULTILINE)
    assert set(app.list_commands(click.Context(app))) <= set(named)


@pytest.mark.parametrize(
    ("page", "link"),
    [(name, link) for name, page in PAGES.items() for link in re.findall(r"\]\(((?!http)[^)]+)\)", page)],
)
def test_links_lead_somewhere(page: str, link: str) -> None:
    path, _, heading = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists()
    if heading:
        titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("line", BENCHMARKS)
def test_the_commands_of_figures_are_benchmarks_with_these_options(line: str, folder: Path) -> None:
    _, _, _, name, *options = shlex.split(line.replace("FOLDER", str(folder / "holiday")))
    command = benchmarks.get_command(click.Context(benchmarks), name)
    assert command is not None
    command.make_context(name, options)  # parsed, not run


def test_each_table_of_figures_follows_the_command_that_made_it() -> None:
    for section in re.split(r"^## ", PAGES["docs/benchmarks.md"], flags=re.MULTILINE)[1:]:
        if "| --- |" in section:
            assert "python -m tests.benchmarks" in section[: section.index("| --- |")], section.partition("\n")[0]


def test_the_figures_of_the_readme_are_those_of_the_benchmarks() -> None:
    figures = PAGES["docs/benchmarks.md"]
    _, _, rest = README.partition("## Measured")
    measured, _, _ = rest.partition("## Limits")
    told = re.findall(r"\d+ of \d+|\d+ %|\d+\.\d+(?= ×| \|)", measured)
    assert len(told) >= 8
    for figure in told:
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]*\d)", figures), figure


def test_the_shell_blocks_of_other_pages_hold_no_command_that_is_not_checked() -> None:
    recipes = re.findall(r"^(\w+).*:", (ROOT / "justfile").read_text(encoding="utf-8"), re.MULTILINE)
    checked = {"just": recipes, "pre-commit": ["install"], "python3": ["-m"], "pip": ["install"], "python": ["-m"]}
    for name in PAGES.keys() - {"README.md"}:
        for line in shell_lines(PAGES[name]):
            program, argument, *_ = line.split()
            assert argument in checked[program], line
            if program == "python":
                assert re.match(r"python -m tests\.(benchmarks \w+|golden (record|check))", line), line


def test_the_pages_name_the_version_that_is_installed() -> None:
    assert f"\nversion: {advimg.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{advimg.__version__}]" in PAGES["CHANGELOG.md"]


def test_the_files_that_pages_name_are_there() -> None:
    named = {
        path
        for page in ("CONTRIBUTING.md", "docs/architecture.md")
        for path in re.findall(r"`([\w./]+(?:\.py|/))`", PAGES[page])
        if "NAME" not in path
    }
    assert len(named) > 20
    assert [path for path in sorted(named) if not any((ROOT / top / path).exists() for top in ("", "src/advimg"))] == []


@bash
def test_the_folder_script_goes_on_after_failures_and_where_it_stopped(folder: Path) -> None:
    photos = folder / "photos"
    photos.mkdir()
    shutil.copy(sample("coffee.png"), photos / "cup of coffee.PNG")
    (photos / "broken.jpg").write_bytes(b"not a picture")
    (photos / "notes.txt").write_text("not a photo")
    line = f"{ROOT}/examples/attack_folder.sh photos out pelican -m efficientnet_lite0"
    ran = shell(line, folder)
    assert ran.returncode == 1, ran.stderr
    assert "failed       broken.jpg" in ran.stderr
    assert "verified     cup of coffee.PNG" in ran.stderr
    result = folder / "out" / "cup of coffee_PNG_adversarial.png"
    assert referee.judge(result)[0] == 144
    written = result.stat().st_mtime_ns
    (photos / "broken.jpg").unlink()
    assert shell(line, folder).returncode == 0
    assert result.stat().st_mtime_ns == written
    assert len((folder / "out" / "records.jsonl").read_text().splitlines()) == 1


@bash
def test_the_script_for_several_models_verifies_all_files_and_goes_on(folder: Path) -> None:
    line = f"{ROOT}/examples/attack_and_verify.sh holiday out pelican"
    ran = shell(f"{line} efficientnet_lite0,efficientnet_lite1", folder)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    head, _, *counts, held = ran.stderr.splitlines()
    assert (head, held) == ("out, checked against 2 journals", "the promise holds for all 2 files")
    assert [line.split() for line in counts] == [[f"efficientnet_lite{number}", *"1100"] for number in (0, 1)]
    assert referee.judge(folder / "out" / "efficientnet_lite0" / "cat_pelican.png")[0] == 144
    (folder / "holiday" / "broken.jpg").write_bytes(b"not a picture")
    journal = (folder / "out" / "efficientnet_lite0" / "results.jsonl").read_text()
    ran = shell(f"{line} no_such.toml,efficientnet_lite0", folder)
    assert ran.returncode == 1
    assert "no_such.toml cannot be read" in ran.stderr
    assert ran.stderr.endswith("the promise holds for all 2 files; 1 attack failed\n")
    assert (folder / "out" / "efficientnet_lite0" / "results.jsonl").read_text().startswith(journal)


@bash
def test_the_script_for_several_models_names_the_files_that_do_not_hold(folder: Path) -> None:
    (folder / "holiday" / "cat.jpg").rename(folder / "holiday" / "a cat\n.jpg")
    line = f"{ROOT}/examples/attack_and_verify.sh holiday out pelican efficientnet_lite0"
    ran = shell(f"{line} --eps 1 --steps 1", folder)
    assert ran.returncode == 3
    *_, named, held = ran.stderr.splitlines()
    assert named.startswith("  a cat\N{REPLACEMENT CHARACTER}_pelican.png: not reached, as its record says: ")
    assert held == "the promise holds for 0 of 1 files"
    assert shell(f"{line} --steps none", folder).returncode == 2


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing_in_the_scripts() -> None:
    scripts = [*sorted((ROOT / "examples").glob("*.sh")), ROOT / ".ci" / "run"]
    ran = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout


def test_the_example_of_an_own_network_runs(folder: Path) -> None:
    ran = subprocess.run(
        [sys.executable, ROOT / "examples" / "own_network.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert (folder / "stripes.png").exists()
    before, after, _ = ran.stdout.splitlines()
    assert before.split()[1:3] != after.split()[1:3]
