"""``cyclevar evaluate`` as a user meets it, on a few pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclevar.cli.main import main
from cyclevar.core.data.batches import stack
from cyclevar.core.data.datasets import open_dataset
from cyclevar.core.data.sources import UnpairedDataset
from cyclevar.core.errors import ConfigError, DataError, UnknownNameError
from cyclevar.core.evaluation.evaluate import evaluate
from cyclevar.core.evaluation.evaluate_translator import evaluate_translator, held_out, match_domains
from cyclevar.core.evaluation.networks import Judges
from cyclevar.core.networks.feature_net import load_feature_net
from cyclevar.core.pipelines.translator import Translator

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def judge(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    small_translator: Path,
    few_emoji: object,
) -> Run:
    """Runs ``cyclevar evaluate`` with the small translator; gives exit code, standard output and standard error."""
    monkeypatch.setenv("CYCLEVAR_CACHE", str(tmp_path / "cache"))

    def judge(*arguments: object, force: bool = True) -> tuple[int, str, str]:
        options = ["--model", small_translator, "--device", "cpu", *(["--force"] if force else []), *arguments]
        code = main(["evaluate", *map(str, options)])
        return code, *capsys.readouterr()

    return judge


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders, horse and zebra, of 40 and 60 pictures."""
    generator = np.random.default_rng(0)
    for domain, count in (("horse", 40), ("zebra", 60)):
        (tmp_path / "photos" / domain).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (9, 12, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / domain / f"{index}.png")
    return tmp_path / "photos"


def test_tables(judge: Run, small_translator: Path) -> None:
    code, out, errors = judge("--split", "validation", "--fusion", 0.25)
    assert code == 0
    assert out.startswith(
        f"{small_translator} on the validation part of emoji: parallel, temperature 2, fusion 0.25, on cpu\n"
    )
    for word in (
        "noto > fluent",
        "fluent > noto",
        "no translation",
        "round trip of true target",
        "KID-rt",
        "retrieval@1",
    ):
        assert word in out
    assert "pictures: 6 of noto, 6 of fluent at 16 x 16; 6 training pictures for KID-rt" in " ".join(out.split())
    assert "FID: too few pictures" in errors


def test_json(judge: Run, small_translator: Path) -> None:
    code, out, _ = judge("--json", "--limit", 4, "--mode", "serial")
    assert code == 0
    found = json.loads(out)
    assert found["model"] == str(small_translator)
    assert (found["data"], found["split"], found["domains"]) == ("emoji", "test", ["noto", "fluent"])
    assert found["translation"]["mode"] == "serial"
    assert found["pictures"] == found["reference_pictures"] == {"noto": 4, "fluent": 4}
    assert found["paired"] is True
    assert found["directions"][0]["rows"][0]["name"] == "translation"
    assert judge("--json", "--limit", 4, "--mode", "serial")[1] == out


def test_data_of_the_users_own(judge: Run, photos: Path) -> None:
    code, out, err = judge("--data", photos, "--json", "--limit", 5)
    assert code == 0, err
    found = json.loads(out)
    assert (found["data"], found["split"], found["paired"]) == ("photos", "validation", False)
    assert found["pictures"] == {"noto": 5, "fluent": 5}
    assert judge("--data", photos / "horse", "--data-b", photos / "zebra", "--limit", 2)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--split", "tset"], "no held-out part named 'tset'; expected one of test, validation; did you mean 'test'?"),
        (["--data", "none"], "the folder none does not exist"),
        (["--limit", "1"], "the limit is 1; expected 2 or more"),
        (["--metrics", "kid,fidd"], "no metric named 'fidd'"),
        (["--features", "inceptoin"], "did you mean 'inception'?"),
        (["--features", "inception"], "github.com/mseitzer/pytorch-fid/releases"),
        (["--metrics", "dino_structure"], "the weights of DINO are not at"),
        (["--target", "."], "expected --generated and --target"),
        (["--generated", "none", "--target", "."], "the folder none does not exist"),
        (["--mode", "serail"], "mode is 'serail'"),
        (["--model", "nto-fluent"], "no translator or folder named 'nto-fluent'"),
    ],
)
def test_what_is_wrong_is_one_line(
    judge: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], line: str
) -> None:
    for variable in ("TORCH_HOME", "HF_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))  # no weights here
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    code, out, errors = judge(*arguments)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert line in errors


def test_too_few_pictures(judge: Run) -> None:
    code, out, errors = judge("--limit", 4, force=False)
    assert (code, out) == (2, "")
    assert "4 pictures of noto are too few for kid, fid, kid_rt, precision, recall; expected 20 or more" in errors
    assert "--force" in errors
    assert judge("--limit", 4, "--metrics", "structure_distance,copy_ratio", force=False)[0] == 0


def test_shared_pictures(judge: Run, photos: Path) -> None:
    shutil.copy(photos / "horse" / "7.png", photos / "zebra" / "horse.png")
    folders = ["--generated", photos / "horse", "--target", photos / "zebra"]
    code, _, errors = judge(*folders, force=False)
    assert code == 2
    assert "horse and " in errors
    assert "share 1 pictures: 7.png = horse.png" in errors
    assert judge(*folders, "--metrics", "colour_shift")[0] == 0


def test_folders(judge: Run, photos: Path, tmp_path: Path) -> None:
    """What a translator saved is judged by the code that judges the translator; names tell what belongs together."""
    made = tmp_path / "made"
    made.mkdir()
    for path in (photos / "horse").iterdir():
        picture = Image.open(path)
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(made / f"{path.stem}.bmp")
    folders = ["--generated", made, "--target", photos / "zebra", "--source", photos / "horse"]
    code, out, errors = judge(*folders, "--json", force=False)
    assert code == 0
    found = json.loads(out)
    assert (found["generated"], found["size"], found["paired"]) == (str(made), [9, 9], False)
    assert found["pictures"] == {"generated": 40, "target": 60, "source": 40}
    [direction] = found["directions"]
    assert (direction["source"], direction["target"]) == ("horse", "zebra")
    rows = {row["name"]: row for row in direction["rows"]}
    assert set(rows) == {"translation", "no translation"}
    assert rows["translation"]["structure_distance"]["value"] > 0
    assert rows["no translation"]["structure_distance"]["value"] == 0
    assert rows["translation"]["kid_rt"] is rows["translation"]["pair_distance"] is None
    assert any("Only 40 names of 40 generated and 60 target" in warning for warning in found["warnings"])
    assert "fid" not in errors


def test_saved_for_the_report(judge: Run, small_translator: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_translator, run)
    code, out, _ = judge("--model", run, "--limit", 4, "--metrics", "colour_shift", "--json", "--save")
    assert code == 0
    assert json.loads((run / "evaluation.json").read_text()) == json.loads(out)


def test_it_is_the_translator_that_is_judged(small_translator: Path, few_emoji: Callable[[], UnpairedDataset]) -> None:
    translator, dataset, net = Translator.load(small_translator), few_emoji(), load_feature_net(input_size=64)
    assert dataset.test
    found = evaluate_translator(translator, dataset, Judges.of(net), batch_size=4, force=True)
    expected = evaluate(
        lambda images, target: torch.cat([translator(image[None], target) for image in images]),
        translator.round_trip,
        (stack(dataset.test[0], 16), stack(dataset.test[1], 16)),
        ("noto", "fluent"),
        reference=(stack(dataset.train[0], 16), stack(dataset.train[1], 16)),
        judges=Judges.of(net),
        force=True,
    )
    for mine, theirs in zip(found.directions, expected.directions, strict=True):
        assert mine.name == theirs.name
        for row, other in zip(mine.rows, theirs.rows, strict=True):
            assert row.kid_rt.value == pytest.approx(other.kid_rt.value, abs=0.5)


def test_parts(few_emoji: Callable[[], UnpairedDataset], photos: Path) -> None:
    emoji = few_emoji()
    assert held_out(emoji) == ("test", emoji.test)
    assert held_out(emoji, "validation") == ("validation", emoji.validation)
    own = open_dataset(photos)
    assert held_out(own) == ("validation", own.validation)
    with pytest.raises(DataError, match=r"photos has no test part; expected a part that is there \(validation\)"):
        held_out(own, "test")
    with pytest.raises(UnknownNameError, match="did you mean 'validation'"):
        held_out(own, "valid")
    for folder in photos.iterdir():
        for picture in sorted(folder.iterdir())[5:]:
            picture.unlink()
    with pytest.raises(DataError, match=r"photos has no held-out part; .*too few pictures"):
        held_out(open_dataset(photos))


def test_domains_are_matched_by_name_or_else_in_order(
    small_translator: Path, few_emoji: Callable[[], UnpairedDataset], photos: Path
) -> None:
    model = Translator.load(small_translator).model

    def of(*names: str) -> Translator:
        return Translator(model, domains=names, targets=[0] * len(names))

    own = open_dataset(photos)
    assert match_domains(of("noto", "fluent"), few_emoji()) == ("noto", "fluent")
    assert match_domains(of("fluent", "noto"), few_emoji()) == ("noto", "fluent")
    assert match_domains(of("cow", "horse", "zebra"), own) == ("horse", "zebra")
    assert match_domains(of("A", "B"), own) == ("A", "B")
    for translator in (of("horse", "cow"), of("zebra", "horses"), of("a", "b", "c")):
        with pytest.raises(ConfigError, match="the pictures are of horse and zebra; expected two of the translator's"):
            match_domains(translator, own)
