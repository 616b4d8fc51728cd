"""The small text side of FLUX-Shapes: T5 for the sequence, CLIP for the pooled vector, their tokenizers.

Both tokenizers are of the classes FLUX.1-dev's pipeline names and know the world's words, one token each.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

from bench.shapes.vocabulary import TEXT_TOKENS, words

WIDTH = 64


def build_t5_tokenizer() -> T5TokenizerFast:
    """A Unigram tokenizer whose pieces are the world's words; pads to 12 tokens."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -5.0), *((f"▁{word}", -1.0) for word in words())]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def _merge(pieces: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: join the pair of lowest rank until none is left."""
    while True:
        ranked = [(merges[pair], pair) for pair in pairwise(pieces) if pair in merges]
        if not ranked:
            return pieces
        _, pair = min(ranked)
        joined, index = [], 0
        while index < len(pieces):
            size = 2 if tuple(pieces[index : index + 2]) == pair else 1
            joined.append("".join(pieces[index : index + size]))
            index += size
        pieces = joined


def merges_of(spelled: Mapping[str, list[str]], halved: str = "") -> dict[tuple[str, str], int]:
    """Merges and their ranks that join each word's letters to one token, and to two those of the `halved` word."""
    merges: dict[tuple[str, str], int] = {}
    for word, letters in spelled.items():
        pieces = letters
        # A later merge ranks below all earlier ones, so it can only join what those leave apart.
        while len(pieces := _merge(pieces, merges)) > 1 + (word == halved):
            merges[pieces[0], pieces[1]] = len(merges)
    return merges


def build_clip_tokenizer(halved: str = "") -> CLIPTokenizer:
    """A byte-pair tokenizer with just the merges that make each word one token, but the `halved` one two.

    Letters serve for any other word.
    """
    merges = merges_of({word: [*word[:-1], word[-1] + "</w>"] for word in words()}, halved)
    vocab: dict[str, int] = {}
    joined = ("".join(pair) for pair in merges)
    letters = string.ascii_lowercase
    for token in (*letters, *(f"{letter}</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"):
        vocab.setdefault(token, len(vocab))
    return CLIPTokenizer(vocab=vocab, merges=list(merges), model_max_length=TEXT_TOKENS + 1)


def _initialise_order_(t5: T5EncoderModel) -> None:
    """Start T5's heads out on the word before, the word after, all before and all after; training moves them on.

    At T5's own initialisation every head sees all words alike, and the encoder stays a bag of words: what `left` says
    of a shape depends on whether the shape stands before or after it, which a sum over words cannot tell.
    """
    attention = t5.encoder.block[0].layer[0].SelfAttention
    table = attention.relative_attention_bias.weight  # (32 buckets, heads), shared by all layers
    after = attention.relative_attention_num_buckets // 2  # buckets below it hold keys before the query
    with torch.no_grad():
        table.mul_(0.3)
        for head, (buckets, bias) in enumerate(
            [(slice(1, 2), 6.0), (slice(after + 1, after + 2), 6.0), (slice(1, after), 3.0), (slice(after, None), 3.0)]
        ):
            table[buckets, head] += bias


class TextEncoders(nn.Module):
    """Both encoders: captions to (sequence (n, 12, 64), pooled (n, 64)), exactly as FluxPipeline computes them."""

    def __init__(self) -> None:
        super().__init__()
        self.t5_tokenizer, self.clip_tokenizer = build_t5_tokenizer(), build_clip_tokenizer()
        self.t5 = T5EncoderModel(
            T5Config(
                vocab_size=len(self.t5_tokenizer),
                d_model=WIDTH,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
            )
        )
        _initialise_order_(self.t5)
        tokens = self.clip_tokenizer
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokens),
                hidden_size=WIDTH,
                intermediate_size=128,
                projection_dim=WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=TEXT_TOKENS + 1,
                bos_token_id=tokens.bos_token_id,
                eos_token_id=tokens.eos_token_id,
                pad_token_id=tokens.pad_token_id,
            )
        )

    def tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids for T5 (n, 12) and CLIP (n, 13), padded."""
        # Both know how long that is.
        whole: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        texts = list(captions)
        return self.t5_tokenizer(texts, **whole).input_ids, self.clip_tokenizer(texts, **whole).input_ids

    def forward(self, t5_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids to (sequence, pooled)."""
        return self.t5(t5_ids)[0], self.clip(clip_ids).pooler_output

    def encode(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Captions to (sequence, pooled) on the encoders' device."""
        device = next(self.parameters()).device
        t5_ids, clip_ids = self.tokenize(captions)
        sequence, pooled = self(t5_ids.to(device), clip_ids.to(device))
        return sequence, pooled
