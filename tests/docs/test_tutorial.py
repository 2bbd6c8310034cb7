"""docs/tutorial.md shows the very files of the package that it builds, and its commands work on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
PACKAGE = ROOT / "examples" / "cyclevar-tinybackbone"


def blocks(language: str) -> list[tuple[str, str]]:
    """What stands behind the language of a block's fence, and the block."""
    found = re.findall(rf"^```{language}[ ]*(.*?)\n(.*?)^```$", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [(title, code) for title, code in found]


def shown() -> dict[str, str]:
    """The files on the page, by path."""
    return dict((*blocks("py"), *blocks("toml")))


def test_every_file_of_the_package_is_on_the_page_and_nothing_else() -> None:
    files = [PACKAGE / "pyproject.toml", *PACKAGE.glob("src/**/*.py")]
    assert shown() == {file.relative_to(PACKAGE).as_posix(): file.read_text() for file in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a reader has it, with what an installer would add."""
    folder = tmp_path_factory.mktemp("tutorial")
    for path, text in shown().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / "src" / f"cyclevar_tinybackbone-{project['version']}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {one}\n" for one in project["dependencies"])
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n{needs}"
    )
    [(name, module)] = project["entry-points"]["cyclevar"].items()
    (info / "entry_points.txt").write_text(f"[cyclevar]\n{name} = {module}\n")
    return folder


def run(script: str, folder: Path) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder / "src")}
    script = re.sub(r"^pip install .*$", "", script, flags=re.MULTILINE)  # `built` did it
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_commands_work(built: Path) -> None:
    first, second, *_ = [code for _, code in blocks("sh")]
    assert "tinybackbone" in run(first, built)
    run(second, built)


@pytest.mark.slow
def test_it_is_checked_and_trained(built: Path) -> None:
    _, _, check, *training = [code for _, code in blocks("sh")]
    assert "contract: backbone" in run(check, built)
    for script in training:
        run(script, built)
    assert list((built / "drawn").rglob("*.png"))
    assert (built / "runs" / "translator" / "translator.json").is_file()
