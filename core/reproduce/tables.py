"""The published comparisons: what each row changes, what the paper prints for it, which order it claims. Torch-free.

Tables 3 to 5 of CycleVAR (arXiv 2506.23347). Of their figures only those stand here that this project's notes on the
paper hold, rounded as there; what they lack is None, nothing is guessed. Where figures lack, the order is that of the
paper's text: its chosen setting below those that it was compared with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyclevar.core.config.base import merged, validate
from cyclevar.core.config.training import TrainConfig
from cyclevar.core.errors import ConfigError, UnknownNameError

BASELINE = "baseline"
"""The paper's own setting: parallel, multi-scale context and output, temperature 2, no Gumbel noise."""


@dataclass(frozen=True)
class Row:
    """One setting of a comparison: its name, what it changes in `TranslationConfig`, what the paper prints for it.

    Rows of equal name are the same row, whatever table they stand in.
    """

    name: str
    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    fid: float | None = None
    seconds: float | None = None
    """A picture on an A100."""


@dataclass(frozen=True)
class Claim:
    """``better`` has the lower ``figure`` (kid_rt, which stands for the paper's FID, or seconds) than ``worse``."""

    better: str
    worse: str
    figure: str
    source: str


@dataclass(frozen=True)
class Table:
    """A published comparison; ``notes`` say what of the original is missing here or was read in one of several ways."""

    name: str
    title: str
    rows: Sequence[Row]
    claims: Sequence[Claim]
    notes: Sequence[str] = ()

    def choose(self, names: Sequence[str]) -> list[Row]:
        """The rows of these names in the order of the table; all for none. Raises `UnknownNameError`."""
        known = [row.name for row in self.rows]
        for name in names:
            if name not in known:
                raise UnknownNameError(f"row of {self.name}", name, known)
        return [row for row in self.rows if not names or row.name in names]


@dataclass(frozen=True)
class Scale:
    """How large a reproduction is: settings of `TrainConfig` that all rows share, and how much is judged.

    ``minutes``: what one row of ``settings["loop"]["steps"]`` steps and its judging took on one busy core.
    """

    name: str
    settings: Mapping[str, Any]
    pictures: int
    minutes: float
    shows: str

    @property
    def steps(self) -> int:
        """Updates of one row, unless another number is asked for."""
        return int(self.settings["loop"]["steps"])

    @property
    def least(self) -> int:
        """The least number of steps that reaches the adversarial stage."""
        return int(self.settings["warmup"]["steps"]) + int(self.settings["discriminator"]["pretrain_steps"]) + 1

    def config(self, row: Row, seed: int, steps: int | None = None) -> TrainConfig:
        """The complete settings of one training. Raises `ConfigError` for too few steps, or a seed below 0."""
        steps = self.steps if steps is None else steps
        if steps < self.least:
            raise ConfigError(
                f"--steps is {steps}",
                expected=f"{self.least} or more: {self.least - 1} go into warm-up and discriminators",
            )
        changes = {"translation": dict(row.changes), "seed": seed, "loop": {"steps": steps}}
        return validate(TrainConfig, merged(self.settings, changes))


_CHOSEN = "text: the paper's chosen setting"

TABLES = {
    "table3": Table(
        "table3",
        "Table 3: serial or parallel",
        (
            Row("serial", "serial, scale by scale (Eq. 6-7, Algorithm 1)", {"mode": "serial"}, fid=82),
            Row(BASELINE, "parallel, one pass (Eq. 8-9)", fid=48, seconds=0.08),
        ),
        (
            Claim(BASELINE, "serial", "kid_rt", "FID 48 against 82"),
            Claim(
                BASELINE, "serial", "seconds", "text: parallel is faster; 0.08 s, the serial time is not in our notes"
            ),
        ),
        (
            "Serial is `native`, the reading that reduces to VAR's own decoding (docs/paper.md).",
            "The paper's 0.08 s (A100) does not agree with its own Table 6 (0.030 s, H100).",
        ),
    ),
    "table4": Table(
        "table4",
        "Table 4: multi-scale context and output",
        (
            Row("both-last", "last scale alone for both", {"context": "last", "output": "last"}),
            Row("context-last", "multi-scale output, context of the last scale", {"context": "last"}),
            Row("output-last", "multi-scale context, output of the last scale", {"output": "last"}),
            Row(BASELINE, "multi-scale context and output"),
        ),
        tuple(Claim(BASELINE, worse, "kid_rt", _CHOSEN) for worse in ("both-last", "context-last", "output-last")),
        ("The published figures are not in our notes; the row without both is ours, if the paper has none.",),
    ),
    "table5": Table(
        "table5",
        "Table 5: temperature and Gumbel noise",
        (
            Row("temperature-0.01", "temperature 0.01", {"temperature": 0.01}),
            Row("temperature-0.7", "temperature 0.7, without Gumbel noise", {"temperature": 0.7}),
            Row(BASELINE, "temperature 2"),
            Row("temperature-100", "temperature 100", {"temperature": 100.0}),
            Row("temperature-10000", "temperature 10000", {"temperature": 10000.0}),
            Row("gumbel", "temperature 2 with Gumbel noise", {"gumbel": True}),
        ),
        (
            *(Claim(BASELINE, f"temperature-{value}", "kid_rt", _CHOSEN) for value in ("0.01", "0.7", "100", "10000")),
            Claim(BASELINE, "gumbel", "kid_rt", "text: Gumbel noise brought no benefit"),
        ),
        (
            "The published figures are not in our notes. The paper goes from 0.01 to 10000; they name no value "
            "between but 2 and 0.70: 100 is ours.",
            'The paper\'s row "0.70 wo/ gumbel" suggests that its other rows were trained with the noise; here all but '
            "one are without.",
        ),
    ),
}

SCALES = {
    "tiny": Scale(
        "tiny",
        {
            "batch_size": 2,
            "warmup": {"steps": 80},
            "optimizer": {"learning_rate": 5e-4, "betas": [0.9, 0.999], "warmup": 40},
            "ema": 0.98,
            "discriminator": {"name": "features", "settings": {"input_size": 96}, "pretrain_steps": 60},
            "loop": {
                "steps": 400,
                "log_every": 10,
                "validate_every": 400,
                "sample_every": 400,
                "save_every": 100,
                "keep": 1,
            },
        },
        pictures=297,
        minutes=18,
        shows="The tiny model, 64 px emoji and a few hundred updates of two pictures of each domain, where the paper "
        "fine-tunes a published model on photographs. A clear difference here is one of how fast a setting learns; it "
        "need not be one of how well it ends. Rows that look equal prove nothing.",
    )
}


def find_table(name: str) -> Table:
    """The table called ``name``. Raises `UnknownNameError`."""
    if name not in TABLES:
        raise UnknownNameError("table", name, TABLES)
    return TABLES[name]


def find_scale(name: str) -> Scale:
    """The scale called ``name``. Raises `UnknownNameError`."""
    if name not in SCALES:
        raise UnknownNameError("scale", name, SCALES)
    return SCALES[name]
