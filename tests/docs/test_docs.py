"""Every ``python``, ``bash`` and ``console`` block of README.md and docs/ is run, so that no page can rot.

The blocks of one page run in order, in one empty folder; its ``python`` blocks share their names. In a ``console``
block the lines behind ``$`` are commands (``>`` continues one); what follows must be what the command prints, where
``...`` stands for anything, and nothing means that any output will do. A comment before a block changes that::

    <!-- test: skip (why it cannot be run) -->
    <!-- test: slow -->                           only with CYCLEVAR_SLOW=1

Blocks in other languages are only looked at by readers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
LANGUAGES = ("python", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block: ``line`` is the number of the line with its opening fence."""

    page: Path
    line: int
    language: str
    mark: str
    code: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that can be run. Raises ValueError for a mark that is unknown or that marks nothing."""
    found, mark, fence = [], "", None
    start, language, code = 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        stripped = line.strip()
        if fence is not None:
            if stripped == fence:
                if language in LANGUAGES:
                    found.append(Block(page, start, language, mark, textwrap.dedent("\n".join(code)) + "\n"))
                elif mark:
                    raise ValueError(f"{page}:{start}: the mark {mark!r} stands before a block that is never run")
                mark, fence = "", None
            else:
                code.append(line)
        elif opening := re.fullmatch(r"(`{3,})\s*(\w*).*", stripped):
            start, fence, language, code = number, opening[1], opening[2], []
        elif comment := re.fullmatch(r"<!--\s*test:\s*(.*?)\s*-->", stripped):
            mark = comment[1]
            if not re.fullmatch(r"slow|skip \(.+\)", mark):
                raise ValueError(f"{page}:{number}: unknown mark {mark!r}; expected `slow` or `skip (reason)`")
        elif stripped and mark:
            raise ValueError(f"{page}:{number}: the mark {mark!r} stands before no block")
    if mark or fence:
        raise ValueError(f"{page}: a mark or a block at the end is not closed")
    return found


def commands(code: str) -> list[tuple[str, str]]:
    """The commands of a ``console`` block, each with the output that the page shows."""
    found: list[tuple[str, str]] = []
    for line in code.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif line.startswith("> ") and found and not found[-1][1]:
            found[-1] = (found[-1][0] + "\n" + line[2:], "")
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
        elif line.strip():
            raise ValueError(f"a console block begins with {line!r}; expected a command behind `$ `")
    return found


def agrees(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed, ``...`` standing for anything and spaces at line ends for nothing."""

    def plain(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip().splitlines())

    pattern = ".*".join(re.escape(part) for part in plain(shown).split("..."))
    return not shown.strip() or re.fullmatch(pattern, plain(printed), flags=re.DOTALL) is not None


def run_script(script: str, folder: Path) -> str:
    """What a bash script prints, with this environment's ``cyclevar`` and ``python`` in front."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "COLUMNS": "120", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode} from\n{script}\n{done.stdout}"
    return done.stdout


def run_block(block: Block, folder: Path, names: dict[str, Any]) -> None:
    """Run one block in ``folder``; ``names`` holds what the page's python blocks defined so far."""
    if block.language == "python":
        code = compile("\n" * block.line + block.code, str(block.page), "exec", dont_inherit=True)
        exec(code, names)
    elif block.language == "bash":
        run_script(block.code, folder)
    else:
        todo = commands(block.code)
        printed = run_script("\n".join(command + "\nprintf '\\0'" for command, _ in todo), folder).split("\0")
        for (command, shown), output in zip(todo, printed, strict=False):
            assert agrees(shown, output), f"`{command}` printed\n{output}\nbut the page shows\n{shown}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, tuple[Path, dict[str, Any]]]:
    """The folder and the python names of every page."""
    return {page: (tmp_path_factory.mktemp(page.stem), {"__name__": "__main__"}) for page in PAGES}


def parameters() -> list[Any]:
    found = []
    for block in (block for page in PAGES for block in blocks(page)):
        name = f"{block.page.relative_to(ROOT).as_posix()}:{block.line}"
        marks = [pytest.mark.slow] if block.mark == "slow" else []
        if block.mark.startswith("skip"):
            marks = [pytest.mark.skip(reason=f"{name} {block.mark}")]
        found.append(pytest.param(block, id=name, marks=marks))
    return found


@pytest.mark.parametrize("block", parameters())
def test_block(block: Block, pages: dict[Path, tuple[Path, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, names = pages[block.page]
    monkeypatch.chdir(folder)
    run_block(block, folder, names)


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), f"{page} links to {target}, which does not exist"


SAMPLE = """\
# Title

```python
x = 1
```

1. In a list:

   ```python
   x += 1
   assert x == 2
   ```

<!-- test: slow -->

```bash
exit 1
```

<!-- test: skip (needs the moon) -->
```console
$ fly
```

```text
nothing
```

```console
$ cd / && echo "one \\
> two"
one two
$ pwd
/
$ echo anything
$ echo a 12.5 z
a ... z
```
"""


def test_the_runner_itself(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(SAMPLE)
    found = blocks(page)
    assert [(block.line, block.language, block.mark) for block in found] == [
        (3, "python", ""),
        (9, "python", ""),
        (16, "bash", "slow"),
        (21, "console", "skip (needs the moon)"),
        (29, "console", ""),
    ]
    names: dict[str, Any] = {}
    for block in found:
        if not block.mark:
            run_block(block, tmp_path, names)
    assert names["x"] == 2
    with pytest.raises(AssertionError, match="exit code 1"):
        run_block(found[2], tmp_path, names)


def test_the_runner_notices_other_output(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo one\ntwo\n```\n")
    with pytest.raises(AssertionError, match="but the page shows"):
        run_block(blocks(page)[0], tmp_path, {})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<!-- test: skip -->\n```bash\nx\n```\n", "unknown mark"),
        ("<!-- test: slow -->\ntext\n", "before no block"),
        ("<!-- test: slow -->\n```text\nx\n```\n", "never run"),
        ("```bash\nx\n", "not closed"),
    ],
)
def test_the_runner_refuses_marks_that_do_nothing(tmp_path: Path, text: str, problem: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=problem):
        blocks(page)
