"""How the released files name what diffusers names otherwise: one table, used to load, to export and to account."""

from __future__ import annotations

import re

RELEASE_PREFIXES = ("pipe.dual_controller.", "model.diffusion_model.")  # may stand before every key of a file

_BLOCK = (  # within a transformer block: ours -> original Wan
    ("attn2.add_k_proj", "cross_attn.k_img"),
    ("attn2.add_v_proj", "cross_attn.v_img"),
    ("attn2.norm_added_k", "cross_attn.norm_k_img"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_out.0", "o"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("norm2", "norm3"),  # norm3 of diffusers has no weights
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("scale_shift_table", "modulation"),
)
_TOP = (  # outside the blocks
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
    ("patch_embedding", "patch_embedding"),
    ("proj_out", "head.head"),
    ("scale_shift_table", "head.modulation"),
    ("control_embedder.dense_proj", "control_initial_combine_linear_dense"),
    ("control_embedder.sparse_proj", "control_initial_combine_linear_sparse"),
    ("control_embedder.text_proj", "control_text_linear"),
    ("control_embedder.time_proj", "control_t_mod"),
)
_BLOCK_KEY = re.compile(r"blocks\.(\d+)\.(.+)")


def release_name(name: str) -> str:
    """The released file's name of one of our parameters, such as `blocks.3.dense_block.attn1.to_q.weight`."""
    block = _BLOCK_KEY.fullmatch(name)
    if block is None:
        return _rename(name, _TOP)
    index, rest = block.groups()
    if rest.startswith("fuse."):
        return f"control_combine_linears.{index}.{rest.removeprefix('fuse.')}"
    for branch in ("dense", "sparse"):
        if rest.startswith(f"{branch}_block."):
            return f"control_blocks_{branch}.{index}.{_rename(rest.removeprefix(f'{branch}_block.'), _BLOCK)}"
    return f"blocks.{index}.{_rename(rest, _BLOCK)}"


def strip_prefix(key: str) -> str:
    """A key of a released file without the optional prefix."""
    for prefix in RELEASE_PREFIXES:
        key = key.removeprefix(prefix)
    return key


def is_control(name: str) -> bool:
    """Whether one of our parameters belongs to the control (the released `control.safetensors`)."""
    return name.startswith("control_embedder.") or any(
        f".{part}." in name for part in ("dense_block", "sparse_block", "fuse")
    )


def is_attention(name: str) -> bool:
    """Whether one of our parameters belongs to the base's self-attention (the released `dit.safetensors`)."""
    return re.match(r"blocks\.\d+\.attn1\.", name) is not None


def is_lora(name: str) -> bool:
    """Whether a parameter belongs to a LoRA layer (PEFT's names)."""
    return ".lora_" in name


def _rename(name: str, table: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in table:
        name = re.sub(rf"(^|\.){re.escape(ours)}(?=\.|$)", rf"\g<1>{theirs}", name)
    return name
