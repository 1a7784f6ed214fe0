"""A complete pipeline with random weights, small enough for any test. It is a fixture, not a model."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from longvie.models.transformer import LongVieTransformer3DModel
from longvie.pipeline import LongViePipeline


def toy_pipeline(seed: int = 0, segment_length: int = 9) -> LongViePipeline:
    """16x32 pixels and up in steps of 16, 2 steps, on the CPU; equal seeds give equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "a", "red", "ball", "rolls", "night"])}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
        tokenizer.pre_tokenizer = Whitespace()
        text = UMT5Config(
            vocab_size=len(vocabulary), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
        )
        vae = AutoencoderKLWan(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 2],
            num_res_blocks=1,
            temperal_downsample=[True, True],
            patch_size=2,
            in_channels=12,
            out_channels=12,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        )
        transformer = LongVieTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=12,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=32,
            num_layers=2,
            num_control_layers=1,
        )
        for parameter in transformer.parameters():  # zero-initialised layers would hide faults
            parameter.data += 0.05 * torch.randn_like(parameter)
        pipe = LongViePipeline(
            tokenizer=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>"),
            text_encoder=UMT5EncoderModel(text).eval(),
            vae=vae.eval(),
            transformer=transformer.eval(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
            segment_length=segment_length,
            fps=8,
            height=32,
            width=48,
            num_inference_steps=2,
            guidance_scale=1.0,
            max_sequence_length=8,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_toy_pipeline(folder: Path, seed: int = 0, segment_length: int = 9) -> Path:
    """The toy pipeline as a folder in diffusers layout."""
    toy_pipeline(seed, segment_length).save_pretrained(folder)
    return folder
