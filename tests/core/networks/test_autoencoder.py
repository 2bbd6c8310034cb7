"""The convolutional encoder and decoder: sizes, and the parts written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from cyclevar.core.errors import ConfigError
from cyclevar.core.networks.autoencoder import (
    Decoder,
    Downsample,
    Encoder,
    Residual,
    SpatialAttention,
    Upsample,
    group_norm,
    recompute,
)


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize(
    ("multipliers", "patch", "stride"), [((1,), 1, 1), ((1,), 4, 4), ((1, 2), 1, 2), ((1, 2, 1), 2, 8)]
)
@torch.no_grad()
def test_sizes(multipliers: tuple[int, ...], patch: int, stride: int, attention: bool) -> None:
    encoder = Encoder(32, multipliers, 1, 6, attention=attention, patch=patch)
    decoder = Decoder(32, multipliers, 1, 6, attention=attention, patch=patch)
    latent = encoder(torch.randn(2, 3, 16, 24))
    assert latent.shape == (2, 6, 16 // stride, 24 // stride)
    assert decoder(latent).shape == (2, 3, 16, 24)


@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_parts_computed_again_give_the_same_gradient_and_keep_less(kind: type[Encoder | Decoder]) -> None:
    net = kind(32, (1, 2), 1, 6, attention=True).requires_grad_(False)
    x = torch.randn(2, 3, 16, 16) if kind is Encoder else torch.randn(2, 6, 8, 8)
    found, kept = [], []
    for again in (False, True):
        recompute(net, again)
        given, storages = x.clone().requires_grad_(), dict[int, int]()

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = net(given).square().sum()
        kept.append(sum(storages.values()))
        found += torch.autograd.grad(out, given)
    assert torch.equal(*found)
    assert kept[1] < 0.5 * kept[0]


def test_the_decoder_has_one_more_block_a_level() -> None:
    encoder = Encoder(32, (1, 2), 2, 6, attention=True)
    decoder = Decoder(32, (1, 2), 2, 6, attention=True)
    assert [len(level.get_submodule("residuals")._modules) for level in encoder.levels] == [2, 2]
    assert [len(level.get_submodule("residuals")._modules) for level in decoder.levels] == [3, 3]
    assert [len(level.get_submodule("attentions")._modules) for level in encoder.levels] == [0, 2]
    assert [len(level.get_submodule("attentions")._modules) for level in decoder.levels] == [0, 3]


def test_norms_have_32_groups_or_24() -> None:
    assert group_norm(64).num_groups == 32
    assert group_norm(48).num_groups == 24
    assert group_norm(96).num_groups == 32
    with pytest.raises(ConfigError, match="cannot have 40 channels; expected a multiple of 32 or 24"):
        group_norm(40)


@torch.no_grad()
def test_a_residual_block_without_its_last_convolution_is_its_shortcut() -> None:
    images = torch.randn(2, 32, 4, 4)
    for outputs in (32, 64):
        block = Residual(32, outputs)
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()  # type: ignore[union-attr]
        assert_close(block(images), block.shortcut(images))
    assert torch.equal(Residual(32, 32).shortcut(images), images)


@torch.no_grad()
def test_spatial_attention_written_out() -> None:
    module = SpatialAttention(32)
    images = torch.randn(2, 32, 3, 5)
    query, key, value = module.qkv(module.norm(images)).flatten(2).chunk(3, dim=1)
    weights = (torch.einsum("bcq,bck->bqk", query, key) / 32**0.5).softmax(-1)
    mixed = torch.einsum("bqk,bck->bcq", weights, value).unflatten(2, (3, 5))
    assert_close(module(images), images + module.out(mixed), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_halving_looks_right_and_down() -> None:
    module = Downsample(1)
    module.conv.weight.zero_()
    module.conv.bias.zero_()  # type: ignore[union-attr]
    module.conv.weight[0, 0, 0, 0] = 1
    images = torch.randn(1, 1, 4, 4)
    assert torch.equal(module(images), images[..., ::2, ::2])
    module.conv.weight.zero_()
    module.conv.weight[0, 0, 2, 2] = 1
    assert torch.equal(module(images), F.pad(images, (0, 1, 0, 1))[..., 2::2, 2::2])


@torch.no_grad()
def test_doubling_repeats_every_cell() -> None:
    module = Upsample(1)
    module.conv.weight.zero_()
    module.conv.bias.zero_()  # type: ignore[union-attr]
    module.conv.weight[0, 0, 1, 1] = 1
    images = torch.randn(1, 1, 2, 3)
    assert torch.equal(module(images), images.repeat_interleave(2, -1).repeat_interleave(2, -2))
