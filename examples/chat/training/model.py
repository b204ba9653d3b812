"""The network: Llama's architecture, small. Parameters are named as GGUF names them, so that writing them is easy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. Heads are `hidden // heads` wide."""

    vocabulary: int = 1024
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    key_heads: int = 4
    feed_forward: int = 256
    positions: int = 2048
    rope_base: float = 10_000.0
    epsilon: float = 1e-6

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


def rotations(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each [length, head_size / 2]."""
    half = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.rope_base**-half)
    return angles.cos(), angles.sin()


def rotated(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """`heads` [batch, heads, length, head_size] turned by position: neighbours form pairs, as GGUF's Llama has them."""
    cosines, sines = rotation
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return torch.stack((even * cosines - odd * sines, even * sines + odd * cosines), dim=-1).flatten(-2)


class Block(nn.Module):  # type: ignore[misc] # torch is not in the normal setup
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        keys = shape.key_heads * shape.head_size
        self.attn_norm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        self.attn_q = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.attn_k = nn.Linear(shape.hidden, keys, bias=False)
        self.attn_v = nn.Linear(shape.hidden, keys, bias=False)
        self.attn_output = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.ffn_norm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        self.ffn_gate = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.ffn_up = nn.Linear(shape.hidden, shape.feed_forward, bias=False)
        self.ffn_down = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(self, states: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, _ = states.shape
        normed = self.attn_norm(states)
        split = (batch, length, -1, self.shape.head_size)
        queries, keys, values = (
            project(normed).view(split).transpose(1, 2) for project in (self.attn_q, self.attn_k, self.attn_v)
        )
        seen = functional.scaled_dot_product_attention(
            rotated(queries, rotation),
            rotated(keys, rotation),
            values,
            is_causal=True,
            enable_gqa=self.shape.key_heads != self.shape.heads,
        )
        states = states + self.attn_output(seen.transpose(1, 2).reshape(batch, length, -1))
        normed = self.ffn_norm(states)
        fed: Tensor = self.ffn_down(functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed))
        return states + fed


class ChatModel(nn.Module):  # type: ignore[misc]
    """Tokens [batch, length] → scores of the next token [batch, length, vocabulary]; one matrix embeds and scores."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.vocabulary, shape.hidden)
        self.blk = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        nn.init.normal_(self.token_embd.weight, std=0.05)  # tokens far enough apart to be told from each other

    def forward(self, tokens: Tensor) -> Tensor:
        return functional.linear(self.states(tokens), self.token_embd.weight)

    def states(self, tokens: Tensor) -> Tensor:
        """The last layer's states [batch, length, hidden]; `forward` scores them all, training only some."""
        rotation = rotations(self.shape, tokens.shape[1])
        states: Tensor = self.token_embd(tokens)
        for block in self.blk:
            states = block(states, rotation)
        normed: Tensor = self.output_norm(states)
        return normed
