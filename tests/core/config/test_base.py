"""Settings files, overrides, and the one line that a wrong setting gets."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError, field_validator

from cyclevar.core.config.base import Settings, validate
from cyclevar.core.config.files import apply_overrides, load_yaml
from cyclevar.core.errors import ConfigError, UnknownNameError


class Optimizer(Settings):
    rate: float = Field(1e-4, gt=0)
    betas: tuple[float, float] = (0.5, 0.9)


class Train(Settings):
    steps: int = 100
    optimizer: Optimizer = Optimizer()
    stages: tuple[Optimizer, ...] = ()
    backbone: str | Optimizer = "tiny"

    @field_validator("steps")
    @classmethod
    def _not_thirteen(cls, steps: int) -> int:
        if steps == 13:
            raise ValueError("any number but 13")
        return steps


class Run(Settings):
    name: str
    train: Train = Train()
    extra: dict[str, Optimizer] = Field(default_factory=dict)


def message(data: dict[str, object], kind: type[ConfigError] = ConfigError) -> str:
    with pytest.raises(kind) as caught:
        validate(Run, data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_valid_data_builds_a_frozen_model() -> None:
    run = validate(Run, {"name": "a", "train": {"steps": 3, "optimizer": {"rate": "1e-3"}}})
    assert (run.name, run.train.steps, run.train.optimizer.rate) == ("a", 3, 1e-3)
    with pytest.raises(ValidationError, match="frozen"):
        run.name = "b"  # type: ignore[misc]


def test_a_wrong_value_is_named_with_key_got_and_expected() -> None:
    assert message({"name": "a", "train": {"steps": "many"}}).startswith(
        "train.steps is 'many'; expected a valid integer"
    )
    assert message({"name": "a", "train": {"optimizer": {"rate": -1}}}) == (
        "train.optimizer.rate is -1; expected greater than 0."
    )
    assert message({"name": "a", "train": {"steps": 13}}) == "train.steps is 13; expected any number but 13."


def test_a_missing_setting_is_named() -> None:
    assert message({}) == "the setting name is missing."


def test_an_unknown_setting_gets_the_nearest_known_one() -> None:
    text = message({"name": "a", "train": {"optimizer": {"raet": 1}}}, UnknownNameError)
    assert "no setting named 'train.optimizer.raet'" in text
    assert "did you mean 'train.optimizer.rate'?" in text
    assert "train.optimizer.betas" in text


def test_unknown_settings_inside_lists_and_free_keys_are_found() -> None:
    assert "did you mean 'train.stages.1.rate'?" in message({"name": "a", "train": {"stages": [{}, {"raet": 1}]}})
    assert "did you mean 'extra.any.rate'?" in message({"name": "a", "extra": {"any": {"raet": 1}}})


def test_a_union_is_one_setting_with_several_expectations() -> None:
    text = message({"name": "a", "train": {"backbone": 3}})
    assert text.startswith("train.backbone is 3; expected a valid string or a valid dictionary")


def test_further_errors_are_named_on_the_same_line() -> None:
    text = message({"train": {"steps": "x", "optimizer": {"rate": "y"}}})
    assert text.endswith("also wrong: train.steps, train.optimizer.rate.")


def test_a_long_value_is_cut() -> None:
    assert len(message({"name": "a", "train": {"steps": "x" * 1000}})) < 200


def test_overrides_are_read_as_yaml_and_leave_the_data_alone() -> None:
    data = {"train": {"steps": 1, "optimizer": {"rate": 1.0}}}
    changed = apply_overrides(
        data, ["train.steps=20", "train.optimizer.rate=1e-4", "new.section=[1, 2]", "a=true", "b=", "c=1-2-3", "d=x=y"]
    )
    assert changed == {
        "train": {"steps": 20, "optimizer": {"rate": 1e-4}},
        "new": {"section": [1, 2]},
        "a": True,
        "b": None,
        "c": "1-2-3",
        "d": "x=y",
    }
    assert data == {"train": {"steps": 1, "optimizer": {"rate": 1.0}}}


@pytest.mark.parametrize("override", ["steps", "=3", "train..steps=3", ".steps=3", "a=[1"])
def test_an_unreadable_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        apply_overrides({}, [override])


def test_an_override_through_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot set train\.steps\.deep: train\.steps is 3"):
        apply_overrides({"train": {"steps": 3}}, ["train.steps.deep=1"])


def test_load_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  steps: 3\n  rate: 2e-4\n")
    assert load_yaml(path) == {"train": {"steps": 3, "rate": 2e-4}}
    path.write_text("# nothing yet\n")
    assert load_yaml(path) == {}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1", r"is not YAML: .*\(line 1, column"),
        (b"- 1\n- 2\n", r"holds \[1, 2\]; expected settings by name"),
        (b"3: x\n", "expected settings by name"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (b"a: !!python/object/apply:os.getcwd []\n", "is not YAML"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        load_yaml(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yaml: No such file"):
        load_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_yaml(tmp_path)
