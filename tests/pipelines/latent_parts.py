"""Tiny latent diffusion systems with random weights."""

from __future__ import annotations

import torch

WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a an apple red green of painting squirrel eating burger the cat"
)
WIDTH = 16
LENGTH = 12

UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
UNCONDITIONAL_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 8,
}
# Four levels, because diffusers takes 8 pixels per latent for granted.
VAE = {
    "block_out_channels": (8, 8, 8, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 64,
}
BERT = {
    "vocab_size": len(WORDS.split()),
    "max_position_embeddings": 77,
    "encoder_layers": 2,
    "encoder_ffn_dim": 32,
    "encoder_attention_heads": 2,
    "head_dim": 8,
    "d_model": WIDTH,
    "pad_token_id": 0,
}
LDM_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
}


def frozen(module: torch.nn.Module) -> torch.nn.Module:
    return module.eval().requires_grad_(False)


def seeded(make, *args, **kwargs):
    """Make a network whose random weights depend on nothing else."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return frozen(make(*args, **kwargs))


def make_tokenizer(folder):
    from transformers import BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")
    return BertTokenizer(str(folder / "vocab.txt"), model_max_length=512)
