"""The translator's training, step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclevar.core.errors import PluginError
from cyclevar.core.interfaces.criteria import Discriminator
from cyclevar.core.interfaces.model import Step
from cyclevar.core.models.model import Model
from cyclevar.core.training.losses.objective import read_pictures, total
from cyclevar.core.training.tasks import translator as trainer
from cyclevar.core.training.tasks.image_pool import ImagePool
from cyclevar.core.training.tasks.translator import TranslatorTask

pytestmark = pytest.mark.usefixtures("light")

Make = Callable[..., TranslatorTask]


def values_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before: Mapping[str, Tensor], module: nn.Module) -> bool:
    return any(not torch.equal(value, before[name]) for name, value in module.state_dict().items())


def advance(task: TranslatorTask, steps: range) -> list[Mapping[str, float]]:
    return [task.update(step) for step in steps]


def test_a_pool_fills_up_and_then_replaces() -> None:
    torch.manual_seed(0)
    pool = ImagePool(3, (1, 1))
    pictures = torch.arange(40.0).view(40, 1, 1, 1).expand(40, 3, 1, 1)
    first = pool.exchange(pictures[:2], 4)
    assert first[:, 0, 0, 0].tolist() == [0, 1]
    second = pool.exchange(pictures[2:4], 4)
    assert second[:2, 0, 0, 0].tolist() == [2, 3]
    assert len(second) == 4
    assert set(second[2:, 0, 0, 0].tolist()) <= {0, 1}
    for i in range(4, 40, 2):
        drawn = pool.exchange(pictures[i : i + 2], 2)
        assert len(drawn) == 4
        assert set(drawn[2:, 0, 0, 0].tolist()) <= set(range(i))
    assert int(pool.count) == 3
    assert min(pool.images[:, 0, 0, 0].tolist()) > 3


def test_a_pool_may_be_empty_or_never_drawn_from() -> None:
    pictures = torch.ones(2, 3, 4, 4)
    for pool, drawn in ((ImagePool(0, (4, 4)), 3), (ImagePool(5, (4, 4)), 0)):
        for _ in range(2):
            assert torch.equal(pool.exchange(pictures, drawn), pictures)


def test_what_a_pool_keeps_is_a_copy() -> None:
    pool, pictures = ImagePool(2, (1, 1)), torch.zeros(1, 3, 1, 1)
    pool.exchange(pictures, 1)
    pictures.fill_(9)
    assert pool.exchange(pictures, 1)[1].max() == 0


def test_the_warm_up_trains_the_backbone_alone(make_task: Make) -> None:
    task = make_task()
    judges, tokenizer, backbone = map(values_of, (task.discriminators, task.model.tokenizer, task.model.backbone))
    figures = advance(task, range(5))
    assert all(set(one) == {"warmup_error", "gradient_norm", "learning_rate"} for one in figures)
    assert figures[-1]["warmup_error"] < figures[0]["warmup_error"]
    assert changed(backbone, task.model.backbone)
    assert not changed(judges, task.discriminators)
    assert not changed(tokenizer, task.model.tokenizer)


def test_then_the_discriminators_learn_alone(make_task: Make) -> None:
    task = make_task(warmup={"steps": 0})
    judges, backbone, average = map(values_of, (task.discriminators, task.model.backbone, task.ema))
    figures = advance(task, range(7))
    assert all("loss/discriminator" in one and "loss/gan" not in one for one in figures)
    assert changed(judges, task.discriminators)
    assert not changed(backbone, task.model.backbone)
    assert not changed(average, task.ema)
    assert all(parameter.grad is None for parameter in task.model.parameters())
    assert "loss/gan" in task.update(7)


def test_discriminators_that_can_tell_end_their_pretraining(make_task: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    aucs = iter([0.7, 0.8])
    monkeypatch.setattr(TranslatorTask, "_held_out_auc", lambda self: next(aucs))
    task = make_task(warmup={"steps": 0}, discriminator={"pretrain_steps": 100, "pretrain_auc": 0.75})
    figures = advance(task, range(41))
    assert [step for step, one in enumerate(figures) if "auc" in one] == [19, 39]
    assert [step for step, one in enumerate(figures) if "loss/gan" in one] == [40]


class OnFrozenFeatures(Discriminator):
    """A trainable head over a trunk that is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 4, 4, stride=4).requires_grad_(False)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.head(self.trunk(images).relu())]


@pytest.fixture
def on_frozen_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "build_discriminator", lambda name, settings: OnFrozenFeatures())


@pytest.mark.usefixtures("on_frozen_features")
def test_the_held_out_auc_is_half_for_discriminators_that_know_nothing(make_task: Make) -> None:
    task = make_task()
    for parameter in task.discriminators.parameters():
        parameter.data.zero_()
    assert task._held_out_auc() == 0.5


def test_losses_come_when_they_are_due(make_task: Make) -> None:
    task = make_task(warmup={"steps": 0}, discriminator={"pretrain_steps": 0})
    figures = advance(task, range(8))
    assert [step for step, one in enumerate(figures) if "loss/identity" in one] == [0, 3, 6]
    assert [step for step, one in enumerate(figures) if "loss/cycle" in one] == [0, 2, 4, 6]
    assert all("loss/gan" in one and "loss/discriminator" in one for one in figures)
    assert [step for step, one in enumerate(figures) if "code_entropy" in one] == [0, 4]


def test_the_dials_are_what_they_say(make_task: Make) -> None:
    task = make_task(warmup={"steps": 0}, discriminator={"pretrain_steps": 0})
    figures = task.update(0)
    assert all(figures[f"gradient/{name}"] > 0 for name in ("gan", "cycle", "identity"))
    assert 0 < figures["code_entropy"] <= torch.tensor(16.0).log().item()
    assert figures["output_strength"] > 0
    assert figures["gradient_norm"] > 0


@pytest.mark.usefixtures("on_frozen_features")
def test_a_dial_weighs_its_loss(make_task: Make, model: Model) -> None:
    begun = values_of(model)
    plain = make_task(warmup={"steps": 0}, discriminator={"pretrain_steps": 0}).update(0)
    model.load_state_dict(begun)
    fivefold = make_task(
        warmup={"steps": 0}, discriminator={"pretrain_steps": 0}, loss={"gan": 5.0, "identity": 0.0}
    ).update(0)
    assert fivefold["loss/gan"] == pytest.approx(plain["loss/gan"], rel=1e-3)
    assert fivefold["gradient/gan"] == pytest.approx(5 * plain["gradient/gan"], rel=1e-3)
    assert "loss/identity" not in fivefold


def test_both_sides_learn_in_the_adversarial_stage(make_task: Make) -> None:
    task = make_task(warmup={"steps": 0}, discriminator={"pretrain_steps": 0})
    judges, tokenizer, backbone = map(values_of, (task.discriminators, task.model.tokenizer, task.model.backbone))
    task.update(0)
    assert changed(judges, task.discriminators)
    assert changed(backbone, task.model.backbone)
    assert not changed(tokenizer, task.model.tokenizer)
    assert all(parameter.requires_grad for parameter in task.discriminators.parameters())


def test_the_generators_update_leaves_the_discriminators_alone(make_task: Make) -> None:
    task = make_task()
    a, b = task.stream.batch(0)
    [pictures] = read_pictures(task.model, a, b)
    made = task._generate(pictures, ("gan", "cycle", "identity"))
    task._descend(total(made.losses, task.weights))
    assert all(parameter.grad is None for parameter in task.discriminators.parameters())


def test_real_pictures_can_be_judged_raw_or_as_round_trips(make_task: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for real in ("raw", "roundtrip"):
        task = make_task(warmup={"steps": 0}, discriminator={"real": real})
        seen: list[Tensor] = []
        monkeypatch.setattr(task, "_pooled", lambda index, images, drawn, seen=seen: seen.append(images) or images)
        task.update(0)
        a, b = task.stream.batch(0)
        wanted = [a, b] if real == "raw" else [task._round_trip(a), task._round_trip(b)]
        for got, expected in zip(seen[0:4:2], wanted, strict=True):
            torch.testing.assert_close(got, expected)


def test_validation_draws_nothing(make_task: Make) -> None:
    task = make_task(translation={"gumbel": True})
    state = torch.get_rng_state()
    found = task.validate(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert found == task.validate(0)
    rows = task.sample(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert {tuple(row.shape) for row in rows} == {(8, 3, 16, 16)}
    assert len(rows) == 8
    assert set(found) == {f"{what}_{way}" for what in ("kid_rt", "change", "identity_change") for way in ("ab", "ba")}


COPY = {"change_ab": 0.03, "identity_change_ab": 0.01, "change_ba": 0.2, "identity_change_ba": 0.19}
MOVE = COPY | {"change_ab": 0.2}


def test_copying_is_remarked_upon_after_a_while(make_task: Make) -> None:
    task = make_task()
    assert task.remarks(1000, COPY) == []  # the adversarial stage has not begun
    task.progress.get_buffer("adversarial_since").fill_(100)
    assert task.remarks(100 + trainer.PATIENCE - 1, COPY) == []
    [remark] = task.remarks(100 + trainer.PATIENCE, COPY)
    assert "merely copies its input: raise loss.gan" in remark
    assert task.remarks(1000, MOVE) == []


@pytest.mark.usefixtures("on_frozen_features")
def test_frozen_parts_of_a_discriminator_stay_frozen(make_task: Make) -> None:
    task = make_task(warmup={"steps": 0}, discriminator={"pretrain_steps": 0})
    before = values_of(task.discriminators)
    task.update(0)
    moved = [name for name, value in task.discriminators.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all(".head." in name for name in moved)
    trunks = [judge.trunk.weight for judge in task.discriminators]
    assert not any(weight.requires_grad or weight.grad is not None for weight in trunks)


@pytest.mark.parametrize(("order", "rows"), [("joint", {0: 12, 2: 8}), ("turbo", {0: 6, 2: 4})])
def test_a_batch_in_chunks_trains_the_same(
    make_task: Make, model: Model, monkeypatch: pytest.MonkeyPatch, order: str, rows: dict[int, int]
) -> None:
    before, decode = values_of(model), model.tokenizer.decode
    decoded: list[int] = []
    monkeypatch.setattr(model.tokenizer, "decode", lambda x, **more: decoded.append(len(x)) or decode(x, **more))

    def trained(chunk: int) -> tuple[Tensor, Mapping[str, float]]:
        """The gradient of the last update, and the figures of the step."""
        model.load_state_dict(before)
        judges = {"pretrain_steps": 0, "updates": 1, "settings": {"width": 8, "augment": []}}
        settings = {"objective": {"order": order, "chunk": chunk}, "discriminator": judges, "warmup": {"steps": 0}}
        task = make_task(batch_size=3, diagnose_every=1, **settings)
        decoded.clear()
        figures = task.update(0)
        assert max(decoded) == rows[chunk]
        return torch.cat([p.grad.flatten() for p in model.backbone.parameters() if p.grad is not None]), figures

    (whole, figures), (parts, again) = trained(0), trained(2)
    assert (parts - whole).norm() < 5e-4 * whole.norm()
    assert dict(again) == pytest.approx(dict(figures), rel=1e-3, abs=1e-4)


def test_each_loss_has_an_update_of_its_own_in_turbo_order(
    make_task: Make, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(objective={"order": "turbo"}, warmup={"steps": 0}, discriminator={"pretrain_steps": 0})
    asked, updated = [], []
    generate, descend = task._generate, task._descend
    monkeypatch.setattr(task, "_generate", lambda pictures, due: asked.append(set(due)) or generate(pictures, due))
    monkeypatch.setattr(task, "_descend", lambda losses: updated.append(1) or descend(losses))
    average = values_of(task.ema)
    figures = task.update(0)
    assert asked == [{"cycle"}, {"gan"}, {"identity"}]
    assert len(updated) == 3
    assert int(task.ema.n_averaged) == int(average["n_averaged"]) + 1
    assert {f"loss/{name}" for name in ("gan", "cycle", "identity", "discriminator")} <= figures.keys()
    assert {f"gradient/{name}" for name in ("gan", "cycle", "identity")} <= figures.keys()
    task.update(1)
    assert asked[3:] == [{"gan"}]


def test_discriminators_learn_even_where_nothing_pays_for_being_found_out(make_task: Make) -> None:
    task = make_task(
        objective={"order": "turbo"},
        loss={"gan": 0.0, "cycle_every": 1},
        warmup={"steps": 0},
        discriminator={"pretrain_steps": 0},
    )
    before = values_of(task.discriminators)
    figures = task.update(1)
    assert "loss/gan" not in figures
    assert figures["gradient_norm"] > 0
    assert changed(before, task.discriminators)


@pytest.mark.usefixtures("on_frozen_features")
def test_frozen_parts_have_no_optimizer_state(make_task: Make) -> None:
    pytest.importorskip("peft", reason="no peft: pip install 'cyclevar[lora]'")
    task = make_task(lora={"rank": 2}, warmup={"steps": 0}, discriminator={"pretrain_steps": 0})
    task.update(0)
    for optimizer, module in (
        (task.optimizer, task.model),
        (task.discriminator_optimizer, task.discriminators),
    ):
        kept = {id(parameter) for parameter in optimizer.state}
        assert kept == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}
        assert kept.isdisjoint(id(parameter) for parameter in module.parameters() if not parameter.requires_grad)
        assert kept
    assert len(task.optimizer.state) < len(list(task.model.parameters())) / 2


def test_blocks_computed_again_train_the_same(make_task: Make, model: Model) -> None:
    before = values_of(model)

    def trained(again: bool) -> dict[str, Tensor]:
        model.load_state_dict(before)
        task = make_task(
            gradient_checkpointing=again,
            warmup={"steps": 1},
            discriminator={"pretrain_steps": 0},
            diagnose_every=1,
        )
        advance(task, range(3))
        assert task.model.backbone.gradient_checkpointing is again
        return values_of(model)

    kept, computed = trained(False), trained(True)
    assert any(not torch.equal(kept[name], before[name]) for name in kept)
    assert all(torch.equal(kept[name], computed[name]) for name in kept)


@pytest.mark.parametrize(
    ("judge", "loss"),
    [
        ({"name": "features", "settings": {"width": 8, "input_size": 32}, "loss": "least_squares"}, {}),
        ({"generator_loss": "hinge", "r1": 1.0, "r1_every": 2}, {"identity_terms": {"colour": 2.0}}),
        ({"loss": "multilevel_sigmoid", "generator_loss": "least_squares"}, {"cycle_terms": {"efficientnet_lite0": 1}}),
    ],
)
def test_other_discriminators_and_losses_train(make_task: Make, judge: dict, loss: dict) -> None:  # type: ignore[type-arg]
    task = make_task(warmup={"steps": 0}, discriminator={"pretrain_steps": 0, **judge}, loss=loss)
    before = values_of(task.discriminators)
    figures = advance(task, range(2))
    assert changed(before, task.discriminators)
    assert all(0 <= one[f"discriminator/accuracy_{domain}"] <= 1 for one in figures for domain in "ab")
    assert ("discriminator/r1_a" in figures[0]) == ("r1" in judge)


def test_the_alarm_sounds_once(make_task: Make) -> None:
    notes: list[str] = []
    task = make_task(note=notes.append, discriminator={"alarm_accuracy": 0.9, "alarm_updates": 3})
    right = {"discriminator/accuracy_a": 1.0, "discriminator/accuracy_b": 0.95}
    right |= {"discriminator/gap_a": 1.0, "discriminator/gap_b": 1.0}
    wrong = right | {"discriminator/accuracy_b": 0.6}
    for step, values in enumerate([right, right, wrong, right, right]):
        task._watch(step, values)
    assert notes == []
    for step in range(5, 20):
        task._watch(step, right)
    [note] = notes
    assert note.startswith("step 6: the discriminator overpowers the generator")


def test_a_discriminator_that_collapses_is_told_once(make_task: Make) -> None:
    notes: list[str] = []
    task = make_task(note=notes.append, discriminator={"alarm_updates": 3})
    figures = {f"discriminator/{name}": 0.5 for name in ("accuracy_a", "accuracy_b", "gap_a", "gap_b")}
    for step in range(20):
        blind = {"discriminator/gap_b": -1e-4 if step != 2 else -0.1, "discriminator/gap_a": 1e-4 * (step % 2 + 9.5)}
        task._watch(step, figures | blind)
    [note] = notes
    assert note.startswith("step 6: the discriminator of domain b has collapsed")


def test_a_plugins_loss_is_weighed_in_every_update(make_task: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def brightness(step: Step) -> Tensor:
        seen.append(len(step.fakes[0]))
        return step.fakes[1].mean()

    class Asked:
        """A manager with one plugin that adds a loss."""

        def gather(self, hook: str, **given: Any) -> list[tuple[str, Any]]:
            assert given.keys() == {"config", "model"}
            return [("bright", {name: (0.5, brightness)})] if hook == "cyclevar_losses" else []

    stages = {"warmup": {"steps": 0}, "discriminator": {"pretrain_steps": 0}}
    name = "brightness"
    monkeypatch.setattr(trainer, "get_manager", Asked)
    for order in ("joint", "turbo"):
        task = make_task(objective={"order": order}, **stages)
        figures = task.update(0)
        assert task.weights["brightness"] == 0.5
        assert -1 <= figures["loss/brightness"] <= 1
        assert figures["gradient/brightness"] > 0
    assert len(seen) == 2
    name = "gan"
    with pytest.raises(PluginError, match="plugin bright adds a loss 'gan', which is there already"):
        make_task()
