"""Attention: the fused form equals the softmax written out, and one context token needs no softmax at all."""

import pytest
import torch

from models.layers import CrossAttention, SelfAttention


def explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
    assert torch.allclose(weights.sum(-1), torch.ones(()))
    return weights @ v


def randomised(layer: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return layer.eval()


@pytest.mark.parametrize("num_heads", [1, 2, 8])
def test_self_attention_equals_explicit_softmax(num_heads: int) -> None:
    layer = randomised(SelfAttention(16, num_heads=num_heads, norm_groups=4))
    x = torch.randn(3, 16, 4, 6)
    fused = layer(x)
    layer.attend = explicit
    torch.testing.assert_close(layer(x), fused, atol=1e-5, rtol=0)
    assert not torch.allclose(fused, x, atol=0.1)


def test_self_attention_equals_torch_multihead_attention() -> None:
    layer = randomised(SelfAttention(16, num_heads=4, norm_groups=4))
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict({"in_proj_weight": layer.to_qkv.weight, "in_proj_bias": layer.to_qkv.bias,
                            "out_proj.weight": layer.to_out.weight, "out_proj.bias": layer.to_out.bias})
    x = torch.randn(2, 16, 3, 5)
    tokens = layer.norm(x).flatten(2).transpose(1, 2)
    attended = theirs(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x)
    torch.testing.assert_close(layer(x), x + attended, atol=1e-5, rtol=0)


def test_self_attention_is_blind_to_the_order_of_positions() -> None:
    layer = randomised(SelfAttention(16, num_heads=4, norm_groups=4))
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(layer(x.flip(-1)), layer(x).flip(-1), atol=1e-5, rtol=0)


def test_fresh_attention_is_the_identity() -> None:
    x, context = torch.randn(2, 16, 4, 4), torch.randn(2, 3, 12)
    assert torch.equal(SelfAttention(16, num_heads=2, norm_groups=4)(x), x)
    cross = CrossAttention(16, context_dim=12, num_heads=2, norm_groups=4)
    assert torch.equal(cross(x, context), x) and torch.equal(cross(x, context[:, :1]), x)


@pytest.mark.parametrize("num_heads", [1, 4])
def test_one_context_token_equals_the_general_case(num_heads: int) -> None:
    layer = randomised(CrossAttention(16, context_dim=12, num_heads=num_heads, norm_groups=4))
    x, context = torch.randn(3, 16, 4, 6), torch.randn(3, 1, 12)
    short = layer(x, context)
    torch.testing.assert_close(short, layer.attend_to_all(x, context), atol=1e-5, rtol=0)
    added = (short - x).flatten(2)
    torch.testing.assert_close(added, added[..., :1].expand_as(added), atol=1e-5, rtol=0)  # alike at every position


def test_several_context_tokens_equal_explicit_softmax() -> None:
    layer = randomised(CrossAttention(16, context_dim=12, num_heads=4, norm_groups=4))
    x, context = torch.randn(2, 16, 3, 3), torch.randn(2, 5, 12)

    def heads(tokens: torch.Tensor) -> torch.Tensor:
        return tokens.unflatten(-1, (4, 4)).transpose(1, 2)

    q = heads(layer.to_q(layer.norm(x).flatten(2).transpose(1, 2)))
    attended = explicit(q, heads(layer.to_k(context)), heads(layer.to_v(context))).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, context), x + layer.to_out(attended).transpose(1, 2).view_as(x), atol=1e-5, rtol=0)
    repeated = context[:, :1].expand(-1, 5, -1)  # five times the same token says no more than once
    torch.testing.assert_close(layer(x, repeated), layer(x, context[:, :1]), atol=1e-5, rtol=0)
