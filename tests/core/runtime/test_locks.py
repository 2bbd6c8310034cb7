"""A lock ends with its owner, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cyclevar.core.errors import ConfigError
from cyclevar.core.runtime.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from cyclevar.core.runtime.locks import locked
with locked(Path(sys.argv[1]), "writes here", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_holder_is_named_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ConfigError, match=rf"process {holder.pid} writes here \(.*lock\); wait"),
            locked(path, "writes here", "wait"),
        ):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    assert path.exists()
    with locked(path, "writes here", "wait"):
        assert path.read_text() == str(os.getpid())
    assert not path.exists()


def test_it_is_free_again_after_an_error(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / "lock", "", ""):
            raise KeyError
