"""``cyclevar pretrain`` as a user meets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cyclevar.cli.main import main
from cyclevar.core.config.base import validate
from cyclevar.core.config.pretraining import PretrainConfig

Run = Callable[..., tuple[int, str, str]]

QUICK = """
model:
  tokenizer: {codebook_size: 16, channels: 8, width: 32, multipliers: [1], residual_blocks: 1, patch: 4}
  backbone: {depth: 1, width: 32, heads: 2, classes: 2, class_names: [reds, blues]}
  schedule: 1-2-4
tokenizer:
  loop: {steps: 4, log_every: 2}
  autoencoder_steps: 1
  perceptual: 0
  kmeans_pictures: 8
  kmeans_iterations: 2
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs ``cyclevar pretrain`` in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main(["pretrain", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def settings_of(printed: str) -> PretrainConfig:
    return validate(PretrainConfig, yaml.safe_load(printed))


def test_a_dry_run_prints_complete_settings_and_writes_nothing(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("# would write runs/var-tiny-emoji-tokenizer-1\n")
    assert settings_of(out) == PretrainConfig()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("stage", "section"), [("tokenizer", "tokenizer"), ("backbone", "transformer")])
def test_steps_and_batch_belong_to_the_stage(run: Run, stage: str, section: str) -> None:
    Path("stage.yaml").write_text(f"stage: {stage}\n")
    for options in (["--stage", stage], ["--config", "stage.yaml"]):
        _, out, _ = run(*options, "--steps", 5001, "--batch-size", 6, "--size", 64, "--seed", 3, "--dry-run")
        config, usual = settings_of(out), PretrainConfig()
        assert (config.stage, config.seed, config.data.size, config.data.skin_tones) == (stage, 3, 64, True)
        for name in ("tokenizer", "transformer"):
            settings, before = getattr(config, name), getattr(usual, name)
            steps, batch = (5001, 6) if name == section else (before.loop.steps, before.batch_size)
            assert (settings.loop.steps, settings.batch_size) == (steps, batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "tokeniser"], "stage is 'tokeniser'; expected 'tokenizer' or 'backbone'"),
        (["--steps", "10"], "expected autoencoder_steps (1000) below loop.steps (10)"),
        (["--batch-size", "3"], "tokenizer.batch_size is 3; expected a multiple of 2"),
        (["--stage", "backbone", "--device", "cpu"], "no tokenizer to learn from; expected --weights"),
        (["--resume", "nowhere"], "there is no run in nowhere"),
        (["--data", "nowhere", "--device", "cpu"], "the folder nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("cyclevar: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("family", "named"), [("var", ""), ("flexvar", " --backbone flexvar")])
def test_from_pictures_to_a_model(run: Run, tmp_path: Path, family: str, named: str) -> None:
    for kind, colour in (("reds", (200, 0, 0)), ("blues", (0, 0, 200))):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for i in range(40):
            picture = Image.new("RGB", (16, 16), "white")
            picture.paste(colour, (i % 8, i % 5, i % 8 + 6, i % 5 + 6))
            picture.save(tmp_path / "pictures" / kind / f"{i}.png")
    Path("quick.yaml").write_text(QUICK)
    code, out, err = run("--data", "pictures", "--config", "quick.yaml", "--device", "cpu", *named.split())
    assert (code, err) == (0, "")
    first = f"runs/{family}-tiny-pictures-tokenizer-1"
    lines = out.splitlines()
    assert lines[0] == f"writing {first}"
    following = f"cyclevar pretrain --stage backbone{named} --weights {first} --data pictures"
    assert lines[-1] == f"  {following}"

    # the line that it printed works as it stands
    code, out, err = run(*following.split()[2:], "--steps", 2, "--device", "cpu")
    assert (code, err) == (0, "")
    second = f"runs/{family}-tiny-pictures-backbone-1"
    assert out.splitlines()[-1] == f"  cyclevar train{named} --weights {second} --data pictures"
    assert Path(second, "model.safetensors").is_file()

    code, out, err = run("--stage", "backbone", "--resume", "auto", "--device", "cpu", *named.split())
    assert (code, err, out.splitlines()[0]) == (0, "", f"going on with {second}")
