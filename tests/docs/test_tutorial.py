"""docs/tutorial.md shows the very files of the package that it builds, and its commands work on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
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


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """The package as a reader has it."""
    folder = tmp_path / "tutorial"
    for path, text in shown().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def run(script: str, folder: Path, environment: dict[str, str]) -> str:
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    script = re.sub(r"^pip install .*$", "", script, flags=re.MULTILINE)  # `install_packages` did it
    command = ["bash", "-euo", "pipefail", "-c", script]
    environment = {**environment, "PATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_first_commands_work(built: Path, install_packages: Callable[..., dict[str, str]]) -> None:
    environment = install_packages(built)
    first, second, *_ = [code for _, code in blocks("sh")]
    assert "tinybackbone" in run(first, built, environment)
    run(second, built, environment)


@pytest.mark.slow
def test_it_is_checked_and_trained(built: Path, install_packages: Callable[..., dict[str, str]]) -> None:
    environment = install_packages(built)
    _, _, check, *training = [code for _, code in blocks("sh")]
    assert "contract: backbone" in run(check, built, environment)
    for script in training:
        run(script, built, environment)
    assert list((built / "drawn").rglob("*.png"))
    assert (built / "runs" / "translator" / "translator.json").is_file()
