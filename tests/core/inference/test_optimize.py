"""A model rearranged for inference makes the same pictures, and leaves the one it came from alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch._dynamo
from torch.utils._python_dispatch import TorchDispatchMode

from cyclevar.core.attention.plan import Visibility, plan_attention
from cyclevar.core.config.inference import TranslationConfig
from cyclevar.core.errors import ConfigError
from cyclevar.core.inference.onednn import can_pack
from cyclevar.core.inference.optimize import (
    FastResidual,
    FusedBlock,
    PhaseUpsample,
    _convolution,
    captured,
    compile_parts,
    for_inference,
)
from cyclevar.core.inference.winograd import WinogradConv
from cyclevar.core.models.model import Model, build
from cyclevar.core.networks.autoencoder import Residual, Upsample
from cyclevar.core.networks.transformer import AdaLNBlock
from cyclevar.core.next_scale.generation import generate
from cyclevar.core.pipelines.translator import Translator
from cyclevar.core.schedule import ScaleSchedule
from cyclevar.core.weights.shipped import find_translator

SHIPPED = ("noto-fluent", "noto-fluent-infinity", "noto-fluent-flexvar")


@pytest.fixture(scope="module", params=SHIPPED)
def translator(request: pytest.FixtureRequest) -> Translator:
    return Translator.load(find_translator(request.param))


def pictures(translator: Translator, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, *translator.model.image_size, generator=generator) * 2 - 1


@pytest.mark.parametrize("mode", ["parallel", "serial"])
def test_translations_are_the_same(translator: Translator, mode: Literal["parallel", "serial"]) -> None:
    config = translator.config.model_copy(update={"mode": mode})
    plain = Translator(translator.model, domains=translator.domains, targets=translator.targets, config=config)
    images = pictures(translator)
    expected = plain(images, plain.domains[1])
    torch.testing.assert_close(plain.for_inference()(images, plain.domains[1]), expected, atol=1e-4, rtol=0)


def test_generated_pictures_are_the_same(translator: Translator) -> None:
    model = translator.model
    assert isinstance(model, Model)
    fast, targets = for_inference(model), [translator.targets[0]] * 2
    expected = generate(model, model.condition(targets), top_k=1).image
    torch.testing.assert_close(generate(fast, fast.condition(targets), top_k=1).image, expected, atol=1e-4, rtol=0)


def test_int8_comes_close(translator: Translator) -> None:
    images, target = pictures(translator), translator.domains[1]
    difference = (translator.for_inference(int8=True)(images, target) - translator(images, target)).abs()
    assert 0 < difference.mean() < 0.01


def test_the_model_stays_as_it_was(translator: Translator) -> None:
    model = translator.model
    assert isinstance(model, Model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = for_inference(model)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    shared = {tensor.data_ptr() for tensor in model.backbone.parameters()}
    assert any(tensor.data_ptr() in shared for tensor in fast.backbone.parameters())
    images, target = pictures(translator, 1), fast.condition([translator.targets[1]])
    assert not fast.translate(fast.encode(images), target, TranslationConfig()).image.requires_grad
    config = TranslationConfig()
    context = model.encode(pictures(translator, 1))
    model.translate(context, model.condition([translator.targets[1]]), config).image.sum().backward()
    assert any(parameter.grad is not None for parameter in model.backbone.parameters())
    model.zero_grad(set_to_none=True)


def test_half_precision(translator: Translator) -> None:
    model = translator.model
    assert isinstance(model, Model)
    half = for_inference(model, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        context = half.encode(pictures(translator).bfloat16())
        made = half.translate(context, half.condition([translator.targets[1]] * 2), translator.config).image
    assert made.isfinite().all()


def test_conditions_are_computed_once(translator: Translator) -> None:
    model = translator.model
    assert isinstance(model, Model)
    fast = for_inference(model)
    first = fast.condition([translator.targets[0]])
    assert fast.condition([translator.targets[0]]) is first
    assert fast.condition([translator.targets[1]]) is not first
    assert len(first.modulation) == model.backbone.depth


def test_it_cannot_be_saved(translator: Translator) -> None:
    with pytest.raises(ConfigError, match="cannot be saved"):
        translator.for_inference().model.save("nowhere.safetensors")


FAMILIES = ("var", "infinity", "flexvar")
MODES: tuple[Literal["parallel", "serial"], ...] = ("parallel", "serial")


def small(family: str, *, schedule: str | None = "1-2-16", fast: bool = True, device: str = "cpu") -> Model:
    torch.manual_seed(0)
    model = build(family, "tiny", **({} if schedule is None else {"schedule": schedule})).to(device).eval()
    return for_inference(model, pack=False) if fast else model


def whole_pass(model: Model, mode: Literal["parallel", "serial"]) -> Callable[[torch.Tensor], torch.Tensor]:
    target = model.backbone.any_target()
    with torch.inference_mode():
        condition = model.condition([target])
    config = TranslationConfig(mode=mode)
    return lambda images: model.translate(model.encode(images), condition, config).image


class Watch(TorchDispatchMode):
    """Notes the names of all operations."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(str(func))
        return func(*args, **(kwargs or {}))


READ_BY_THE_HOST = ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select", "unique", "equal", "_to_copy")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_reads_no_tensor_on_the_host(family: str, mode: Literal["parallel", "serial"]) -> None:
    model = small(family)
    one_pass, images = whole_pass(model, mode), torch.rand(1, 3, *model.image_size) * 2 - 1
    with torch.inference_mode(), Watch() as watch:
        one_pass(images)
    assert len(watch.seen) > 30
    assert not [name for name in watch.seen if any(part in name for part in READ_BY_THE_HOST)]


def test_such_reading_is_noticed() -> None:
    with Watch() as watch:
        assert torch.ones(2).sum().item() == 2
        torch.tensor([1.0])
    assert {"aten._local_scalar_dense.default", "aten.lift_fresh.default"} <= watch.seen


@pytest.mark.cuda
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_captured_on_a_gpu(family: str, mode: Literal["parallel", "serial"]) -> None:
    """A pass waits for nothing; recorded as a graph it makes the same pictures, of other inputs too."""
    model = small(family, device="cuda")
    one_pass = whole_pass(model, mode)
    first, second = (torch.rand(1, 3, *model.image_size, device="cuda") * 2 - 1 for _ in range(2))
    with torch.inference_mode():
        expected = [one_pass(images) for images in (first, second)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            one_pass(first)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        replayed = captured(one_pass, first)
        made = [replayed(images) for images in (first, second)]
    for one, other in zip(made, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="recorded for"):
        replayed(torch.cat([first, second]))


def test_captured_elsewhere_is_the_function_itself() -> None:
    assert captured(torch.tanh, torch.zeros(1)) is torch.tanh


def check_compiled(model: Model, mode: Literal["parallel", "serial"], backend: str) -> None:
    torch._dynamo.reset()
    one_pass, images = whole_pass(model, mode), torch.rand(1, 3, *model.image_size) * 2 - 1
    with torch.inference_mode():
        expected = one_pass(images)
        compile_parts(model, backend=backend)
        torch.testing.assert_close(one_pass(images), expected, atol=1e-4, rtol=0)
    torch._dynamo.reset()


def test_compiling_meets_no_graph_break() -> None:
    check_compiled(small("var", schedule="1-16", fast=False), "serial", "eager")


@pytest.mark.parametrize("int8", [False, True])
def test_what_the_compiler_cannot_read_is_refused(int8: bool) -> None:
    if not (int8 or can_pack(torch.device("cpu"))):
        pytest.skip("needs oneDNN and AVX2: nothing is packed here")
    model = small("var", fast=False)
    with pytest.raises(ConfigError, match="cannot be compiled"):
        compile_parts(for_inference(model, int8=int8))


@pytest.mark.slow
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_compiles_as_whole_graphs(family: str, mode: Literal["parallel", "serial"], fast: bool) -> None:
    check_compiled(small(family, schedule=None, fast=fast), mode, "eager")


@pytest.mark.slow
def test_compiled_to_machine_code() -> None:
    check_compiled(small("var"), "serial", "inductor")


@pytest.mark.parametrize("size", [(1, 1), (3, 5)])
@pytest.mark.parametrize("channels", [4, 64])
def test_upsampling_by_phases(size: tuple[int, int], channels: int) -> None:
    torch.manual_seed(0)
    upsample, maps = Upsample(channels), torch.randn(2, channels, *size)
    with torch.no_grad():
        torch.testing.assert_close(PhaseUpsample(upsample)(maps), upsample(maps), atol=1e-5, rtol=0)


@pytest.mark.parametrize("pictures", [1, 2])
def test_fused_blocks(pictures: int) -> None:
    torch.manual_seed(0)
    block = AdaLNBlock(32, 2, 64, shared_modulation=True, qk_norm=True, norm_eps=1e-6).eval()
    schedule = ScaleSchedule.square(1, 2)
    plan = plan_attention(schedule, Visibility.causal(2), range(2))
    tokens, condition = torch.randn(pictures, 5, 32), torch.randn(pictures, 6 * 32)
    before = tokens.clone()
    with torch.no_grad():
        expected = block(tokens, condition, plan, None, 0)
        torch.testing.assert_close(FusedBlock(block)(tokens, condition, plan, None, 0), expected)
    assert torch.equal(tokens, before)


def test_residuals_leave_their_input_alone() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 64, 9, 6)
    before = maps.clone()
    with torch.no_grad():
        for outputs in (64, 96):
            plain = Residual(64, outputs)
            fast = FastResidual(plain)
            assert isinstance(fast.conv1, WinogradConv)
            torch.testing.assert_close(fast(maps), plain(maps), atol=1e-5, rtol=0)
    assert torch.equal(maps, before)


def test_the_smallest_and_the_largest_convolutions_stay() -> None:
    with torch.device("meta"):
        kinds = [type(_convolution(torch.empty(side, side, 3, 3), torch.empty(side), padding=1)) for side in (32, 640)]
    assert kinds == [torch.nn.Conv2d, torch.nn.Conv2d]


def test_kept_memory_is_glibc_alone() -> None:
    code = "from cyclevar.core.runtime.allocator import keep_freed_memory as keep; print(keep())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(sys.platform.startswith("linux") and _glibc())


def _glibc() -> bool:
    import platform

    return platform.libc_ver()[0] == "glibc"
