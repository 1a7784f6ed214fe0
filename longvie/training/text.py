"""The tiny model's text side: a word tokenizer made from captions, and a text encoder of random weights.

It knows captions, not scenes.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
MAX_TOKENS = 24  # a caption of four things has 19 words


def train_tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """One token a word, lower case; words never seen become <unk>."""
    words = sorted({word for caption in captions for word in caption.lower().split()})
    vocabulary = {token: i for i, token in enumerate([PAD, END, UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, vocabulary[END])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=MAX_TOKENS
    )


def tiny_text_encoder(vocabulary: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=vocabulary, d_model=64, d_kv=16, d_ff=128, num_layers=1, num_heads=4,
            relative_attention_num_buckets=8, relative_attention_max_distance=24, dropout_rate=0.0,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )
    )  # fmt: skip
