"""Configurations of networks so small that a test builds them in passing."""

from __future__ import annotations

from typing import Any

#: GLIDE's networks, with 16 tokens of a vocabulary of 32.
GLIDE: dict[str, Any] = {
    "sample_size": 8,
    "model_channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "num_head_channels": 8,
    "norm_num_groups": 4,
    "text_ctx": 16,
    "xf_width": 16,
    "xf_layers": 2,
    "xf_heads": 2,
    "n_vocab": 32,
}

#: A UNet that attends in its lower half, for images of 8x8 pixels.
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}

#: BDDM's score network, with 6 samples per frame.
DIFFWAVE: dict[str, Any] = {
    "res_channels": 8,
    "skip_channels": 8,
    "num_res_layers": 3,
    "dilation_cycle": 3,
    "diffusion_step_embed_dim_in": 8,
    "diffusion_step_embed_dim_mid": 8,
    "diffusion_step_embed_dim_out": 8,
    "num_mels": 4,
    "upsample_factors": (3, 2),
    "n_fft": 64,
    "win_length": 64,
}
