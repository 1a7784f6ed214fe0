"""`LongVieTransformer3DModel`: diffusers' Wan transformer with dual control and history.

The parent's forward is called, not copied. Controls are embedded here, then each of the first blocks runs its own
dense and sparse half-width block and adds their fused features to the video tokens. History is put before the video
along the frame axis and cut off again after the last block, which is valid because the temporal patch is 1.
Sources: LongVie 2 (arXiv 2512.13604) and the layout of the released weights, as numbered in ARCHITECTURE.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from diffusers import ModelMixin, WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.utils import apply_lora_scale
from jaxtyping import Float
from torch import Tensor, nn

# diffusers looks for `ModelMixin` in the module of a class it is to load
__all__ = ["LongVieTransformer3DModel", "LongVieTransformerBlock", "ModelMixin"]

Scale = float | Float[Tensor, "..."]
RotaryEmbedding = tuple[Tensor, Tensor]


@dataclass(kw_only=True)
class _Streams:
    """The control streams of one forward call: written once per layer, so that a checkpointed block can run again."""

    embedder: ControlEmbedder
    dense: dict[int, Tensor]  # layer -> its input tokens (B, N, D/2); empty if this control is absent
    sparse: dict[int, Tensor]
    dense_scale: float | Tensor  # a number, or per token (B or 1, N, 1)
    sparse_scale: float | Tensor
    context: Tensor | None = None  # (B, L, D/2), the same for every layer
    temb: Tensor | None = None  # (B, 6, D/2)
    num_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.num_tokens = next(iter((self.dense or self.sparse).values())).shape[1]

    def step(self, streams: dict[int, Tensor], layer: int, block: nn.Module, rotary_emb: RotaryEmbedding) -> Tensor:
        """Run one layer of one stream and leave its output as the next layer's input."""
        output = block(streams[layer], self.context, self.temb, rotary_emb)
        streams[layer + 1] = output
        if not torch.is_grad_enabled():
            del streams[layer]
        return output


class ControlEmbedder(nn.Module):
    """What both control streams share: halves the width of tokens, context and time modulation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense_proj = nn.Linear(dim, dim // 2)
        self.sparse_proj = nn.Linear(dim, dim // 2)
        self.text_proj = nn.Linear(dim, dim // 2)
        self.time_proj = nn.Linear(dim, dim // 2)


class LongVieTransformerBlock(WanTransformerBlock):
    """A Wan block with a dense and a sparse half-width block beside it and one zero-initialised fusion for both."""

    def __init__(
        self,
        layer: int,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        qk_norm: str = "rms_norm_across_heads",
        cross_attn_norm: bool = False,
        eps: float = 1e-6,
        added_kv_proj_dim: int | None = None,
    ) -> None:
        super().__init__(dim, ffn_dim, num_heads, qk_norm, cross_attn_norm, eps, added_kv_proj_dim)
        half_image_dim = None if added_kv_proj_dim is None else added_kv_proj_dim // 2
        half = (dim // 2, ffn_dim // 2, num_heads // 2, qk_norm, cross_attn_norm, eps, half_image_dim)
        self.layer = layer
        self.dense_block = WanTransformerBlock(*half)
        self.sparse_block = WanTransformerBlock(*half)
        self.fuse = nn.Linear(dim // 2, dim)
        nn.init.zeros_(self.fuse.weight)
        nn.init.zeros_(self.fuse.bias)
        self.streams: _Streams | None = None  # set by the model for the duration of one call

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        rotary_emb: RotaryEmbedding,
    ) -> Tensor:
        """The base block on `[history ; video]` tokens, then `video += fuse(s_d * dense + s_s * sparse)`."""
        hidden_states = super().forward(
            hidden_states, encoder_hidden_states, temb, cast(Tensor, rotary_emb)
        )  # a pair: its annotation is wrong
        streams = self.streams
        if streams is None:
            return hidden_states
        if self.layer == 0:
            streams.context = streams.embedder.text_proj(encoder_hidden_states)
            streams.temb = streams.embedder.time_proj(temb)
        n = streams.num_tokens
        control_rotary = (rotary_emb[0][:, :n], rotary_emb[1][:, :n])  # frames counted from 0, as without history
        features = []
        if streams.dense:
            dense = streams.step(streams.dense, self.layer, self.dense_block, control_rotary)
            features.append(dense * streams.dense_scale)
        if streams.sparse:
            sparse = streams.step(streams.sparse, self.layer, self.sparse_block, control_rotary)
            features.append(sparse * streams.sparse_scale)
        control = self.fuse(sum(features[1:], start=features[0]).type_as(hidden_states))
        history, video = hidden_states[:, :-n], hidden_states[:, -n:]
        return torch.cat([history, video + control], dim=1)


class LongVieTransformer3DModel(WanTransformer3DModel):
    """Wan's image-to-video transformer with LongVie's dual control and history.

    Args, beyond `WanTransformer3DModel`'s:
        num_control_layers: how many of the first blocks carry control (released weights: the first 12 of 40;
            LongVie on CogVideoX: 18). 0 is the plain base model with history.

    Without controls and history the output equals the parent's, bit for bit.
    """

    _no_split_modules = ["WanTransformerBlock", "LongVieTransformerBlock"]  # noqa: RUF012  diffusers' own form
    _repeated_blocks = ["WanTransformerBlock", "LongVieTransformerBlock"]  # noqa: RUF012
    _cp_plan = None  # history and control tokens would have to be split alike; diffusers' plan splits them wrongly

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = None,
        added_kv_proj_dim: int | None = None,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        num_control_layers: int = 12,
    ) -> None:
        if not 0 <= num_control_layers <= num_layers:
            raise ValueError(f"num_control_layers is {num_control_layers}; it must lie in 0..num_layers ({num_layers})")
        if num_control_layers and num_attention_heads % 2:
            raise ValueError(f"num_attention_heads is {num_attention_heads}; control blocks have half, so make it even")
        if patch_size[0] != 1:
            raise ValueError(f"patch_size is {tuple(patch_size)}; its temporal part must be 1")
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        dim = num_attention_heads * attention_head_dim
        for layer in range(num_control_layers):
            self.blocks[layer] = LongVieTransformerBlock(
                layer, dim, ffn_dim, num_attention_heads, cast(str, qk_norm), cross_attn_norm, eps, added_kv_proj_dim
            )
        self.control_embedder = ControlEmbedder(dim) if num_control_layers else None

    @apply_lora_scale("attention_kwargs")  # as the parent's forward, which controls are embedded before
    def forward(
        self,
        hidden_states: Float[Tensor, "b c f h w"],
        timestep: Tensor,
        encoder_hidden_states: Float[Tensor, "b l d"],
        encoder_hidden_states_image: Float[Tensor, "b i e"] | None = None,
        dense_states: Float[Tensor, "b c f h w"] | None = None,
        sparse_states: Float[Tensor, "b c f h w"] | None = None,
        history_states: Float[Tensor, "b z fh h w"] | None = None,
        dense_scale: Scale = 1.0,
        sparse_scale: Scale = 1.0,
        attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity `noise - x0`, (B, z, F, H, W).

        Args:
            hidden_states: (B, 2z + m, F, H, W): noisy latents z, mask m, first-frame latents z (Wan: 16 + 4 + 16).
            timestep: (B,) in 0..1000.
            encoder_hidden_states: (B, L, text_dim) text features; with an image encoder L must be 512, zero rows
                past the prompt.
            encoder_hidden_states_image: (B, 257, image_dim) CLIP tokens, for models that have them.
            dense_states, sparse_states: (B, 2z + m, F, H, W): control video latents, mask, latents of its first
                frame followed by zeros. An absent control's branch is left out.
            history_states: (B, z, FH, H, W) clean latents of the frames before this segment.
            dense_scale, sparse_scale: multiply a branch's features before the fusion; a number, or a tensor (F,) or
                (B, F) so that control can fade over latent frames.
        """
        num_frames = hidden_states.shape[2]
        streams = self._control_streams(hidden_states, dense_states, sparse_states, dense_scale, sparse_scale)
        num_history = 0
        if history_states is not None and history_states.shape[2]:
            num_history = history_states.shape[2]
            hidden_states = torch.cat([self._history_input(hidden_states, history_states), hidden_states], dim=2)

        control_blocks = [block for block in self.blocks if isinstance(block, LongVieTransformerBlock)]
        for block in control_blocks:
            block.streams = streams
        try:
            (sample,) = super().forward(
                hidden_states,
                cast(torch.LongTensor, timestep),  # any dtype does
                encoder_hidden_states,
                encoder_hidden_states_image,
                return_dict=False,
                attention_kwargs=attention_kwargs,
            )
        finally:
            if not torch.is_grad_enabled():  # a checkpointed block reads them again during the backward pass
                for block in control_blocks:
                    block.streams = None
        assert isinstance(sample, Tensor)  # the parent's annotation also allows a string
        sample = sample[:, :, num_history : num_history + num_frames]
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def _control_streams(
        self,
        hidden_states: Tensor,
        dense_states: Tensor | None,
        sparse_states: Tensor | None,
        dense_scale: Scale,
        sparse_scale: Scale,
    ) -> _Streams | None:
        if dense_states is None and sparse_states is None:
            return None
        if self.control_embedder is None:
            raise ValueError("this model has no control layers; load control weights to use dense or sparse control")
        for name, states in (("dense_states", dense_states), ("sparse_states", sparse_states)):
            if states is not None and states.shape[1:] != hidden_states.shape[1:]:
                raise ValueError(f"{name} is {tuple(states.shape)}; it must match {tuple(hidden_states.shape)}")
        embedder = self.control_embedder
        tokens_per_frame = (hidden_states.shape[3] // self.config["patch_size"][1]) * (
            hidden_states.shape[4] // self.config["patch_size"][2]
        )

        def embed(states: Tensor | None, proj: nn.Module) -> dict[int, Tensor]:
            if states is None:
                return {}
            return {0: proj(self.patch_embedding(states).flatten(2).transpose(1, 2))}

        return _Streams(
            embedder=embedder,
            dense=embed(dense_states, embedder.dense_proj),
            sparse=embed(sparse_states, embedder.sparse_proj),
            dense_scale=_per_token(dense_scale, hidden_states, tokens_per_frame, "dense_scale"),
            sparse_scale=_per_token(sparse_scale, hidden_states, tokens_per_frame, "sparse_scale"),
        )

    def _history_input(self, hidden_states: Tensor, history_states: Tensor) -> Tensor:
        """(B, 2z + m, FH, H, W): ones where noise and mask stand, then the clean latents (released layout)."""
        batch, channels, _, height, width = hidden_states.shape
        num_history, num_latent = history_states.shape[2], history_states.shape[1]
        ones = history_states.new_ones(batch, channels - num_latent, num_history, height, width)
        history = history_states.expand(batch, -1, -1, -1, -1)
        return torch.cat([ones, history], dim=1).to(hidden_states.dtype)


def _per_token(scale: Scale, hidden_states: Tensor, tokens_per_frame: int, name: str) -> float | Tensor:
    """A scale per latent frame, (F,) or (B, F), as one per token, (1 or B, F * tokens_per_frame, 1)."""
    if not isinstance(scale, Tensor) or scale.ndim == 0:
        return float(scale)
    batch, num_frames = hidden_states.shape[0], hidden_states.shape[2]
    if scale.ndim > 2 or scale.shape[-1] != num_frames or (scale.ndim == 2 and scale.shape[0] not in (1, batch)):
        raise ValueError(f"{name} is {tuple(scale.shape)}; give a number, ({num_frames},) or ({batch}, {num_frames})")
    per_token = scale.reshape(-1, num_frames).repeat_interleave(tokens_per_frame, dim=1)
    return per_token.unsqueeze(-1).to(hidden_states)


TransformerBlockRegistry.register(  # so that diffusers' step caches know where the tokens are
    LongVieTransformerBlock,
    TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=cast(int, None)),
)
