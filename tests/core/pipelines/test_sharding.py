"""Jobs that know nothing of each other do all of the work, none of it twice, and never mix two models' outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclevar.core.errors import CheckpointError, ConfigError
from cyclevar.core.pipelines.sharding import Manifest, Shard, plan_translation
from cyclevar.core.pipelines.translate_files import Job, Outcome
from cyclevar.core.pipelines.translator import Translator


@pytest.fixture(scope="module")
def translator(small_translator: Path) -> Translator:
    return Translator.load(small_translator)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for seed in range(7):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{seed}.png")
    return tmp_path / "in"


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_every_item_belongs_to_one_shard(count: int) -> None:
    items = list(range(7))
    parts = [Shard(number, count).of(items) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", "1.0/3", ""])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected I/N with I from 1 to N"):
        Shard.parse(text)


def test_shards_together_make_what_one_job_makes(
    translator: Translator, small_translator: Path, source: Path, tmp_path: Path
) -> None:
    list(plan_translation(source, tmp_path / "whole").translate(translator, small_translator, "fluent"))
    for number in (3, 1, 2):
        plan = plan_translation(source, tmp_path / "parts", shard=f"{number}/3")
        done = list(plan.translate(translator, small_translator, "fluent"))
        assert len(done) == plan.total == (3 if number == 1 else 2)
        manifest = lines(tmp_path / "parts" / f"manifest-{number}-of-3.jsonl")
        assert [line["status"] for line in manifest[1:]] == ["translated"] * len(done)
    whole, parts = (
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*.png")} for name in ("whole", "parts")
    )
    assert whole == parts
    assert len(whole) == 7
    assert [path.name for path in (tmp_path / "whole").glob("*.jsonl")] == [".cyclevar-outputs.jsonl"]
    assert not list((tmp_path / "parts").glob(".*"))


def test_a_job_goes_on_where_its_outputs_end(
    translator: Translator, small_translator: Path, source: Path, tmp_path: Path
) -> None:
    plan = plan_translation(source, tmp_path / "out", shard="1/1")
    outcomes = plan.translate(translator, small_translator, "fluent", batch_size=2)
    for _ in range(3):  # the second batch is translated and saved when its first outcome comes
        next(outcomes)
    del outcomes
    again = [one.status for one in plan.translate(translator, small_translator, "fluent", batch_size=2)]
    assert sorted(again) == ["already there"] * 4 + ["translated"] * 3
    manifest = lines(tmp_path / "out" / "manifest-1-of-1.jsonl")
    assert len({str(line["output"]) for line in manifest[1:]}) == 6  # one was killed between its file and its line


def test_outputs_of_two_models_or_settings_are_not_mixed(
    translator: Translator, small_translator: Path, source: Path, tmp_path: Path
) -> None:
    def shard(number: int, translator: Translator, folder: Path, target: str = "fluent", **options: bool) -> None:
        list(
            plan_translation(source, tmp_path / "out", shard=f"{number}/2").translate(
                translator, folder, target, **options
            )
        )

    shard(1, translator, small_translator)
    with pytest.raises(ConfigError, match=r"made with another target \(manifest-1-of-2\.jsonl\).*--overwrite"):
        shard(2, translator, small_translator, "noto")
    other = Translator.load(small_translator, fusion=0.9)
    other.save(tmp_path / "other")
    with pytest.raises(ConfigError, match="made with another model and another translation"):
        shard(1, other, tmp_path / "other")
    shard(2, translator, small_translator)
    shard(1, other, tmp_path / "other", overwrite=True)
    first = lines(tmp_path / "out" / "manifest-1-of-2.jsonl")
    assert first[0]["translation"]["fusion"] == 0.9  # type: ignore[index]
    assert len(first) == 1 + 4


def test_files_packed_into_archives_must_stay_the_same(
    translator: Translator, small_translator: Path, source: Path, tmp_path: Path
) -> None:
    def pack(shard: str | None = None, per_archive: int = 3) -> list[str]:
        plan = plan_translation(source, tmp_path / "out", kind="wds", per_archive=per_archive, shard=shard)
        assert plan.total is None
        return [one.status for one in plan.translate(translator, small_translator, "fluent")]

    assert pack("2/2") == ["translated"] * 3
    assert pack() == ["translated"] * 3 + ["already there"] + ["translated"]
    with pytest.raises(ConfigError, match="another pictures in an archive"):
        pack(per_archive=4)
    Image.new("RGB", (4, 4)).save(source / "00.png")
    with pytest.raises(ConfigError, match="another pictures "):
        pack()


def test_a_shard_needs_a_folder(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a shard would write to .*out\.tar; expected a folder"):
        plan_translation(source, tmp_path / "out.tar", shard="1/2")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is a file"):
        plan_translation(source, tmp_path / "file", shard="1/2")


def test_a_damaged_manifest_begins_again(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, Shard(1, 2))
    manifest.path.write_text('{"model": "a", "tar')
    manifest.begin({"model": "b"}, afresh=False)
    assert lines(manifest.path) == [{"model": "b"}]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest(tmp_path / "gone", Shard(1, 1))
    outcome = Outcome(Job(tmp_path / "a.png", tmp_path / "b.png"), "translated")
    with pytest.raises(CheckpointError, match=r"could not be saved \(No such file or directory\)"):
        list(manifest.keep([outcome]))


def test_a_shard_is_made_by_one_process_at_a_time(
    translator: Translator, small_translator: Path, source: Path, tmp_path: Path
) -> None:
    plan = plan_translation(source, tmp_path / "out", shard="1/2")
    outcomes = plan.translate(translator, small_translator, "fluent", batch_size=1)
    next(outcomes)
    manifest = (tmp_path / "out" / "manifest-1-of-2.jsonl").read_text()
    with pytest.raises(
        ConfigError, match=rf"process {os.getpid()} on .* makes shard 1/2 .*wait for it, or start another"
    ):
        plan.translate(translator, small_translator, "fluent")
    assert (tmp_path / "out" / "manifest-1-of-2.jsonl").read_text() == manifest
    list(plan_translation(source, tmp_path / "out", shard="2/2").translate(translator, small_translator, "fluent"))
    assert len(list(outcomes)) == 3
    assert [one.status for one in plan.translate(translator, small_translator, "fluent")] == ["already there"] * 4
    assert not list((tmp_path / "out").glob(".*"))
