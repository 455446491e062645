"""The building blocks the networks are made of, one fusable group of operations per module."""

from septet.nn.activation import ACTIVATIONS, activation
from septet.nn.attention import SpatialAttention
from septet.nn.autoencoder import AutoencoderBlock2D, Decoder, Encoder
from septet.nn.blocks import DownBlock2D, MidBlock2D, UpBlock2D
from septet.nn.context import TextContext, repeat_rows
from septet.nn.conv import Conv2d, channels_last_on_cpu
from septet.nn.embedding import (
    TimestepEmbedding,
    at_row,
    sinusoidal_embedding,
    timesteps_of_call,
)
from septet.nn.norm import GroupNormAct
from septet.nn.quantize import VectorQuantizer
from septet.nn.resample import Downsample2D, Upsample2D
from septet.nn.resnet import ResnetBlock2D, ResnetOptions
from septet.nn.transformer import CrossAttention, SpatialTransformer, TransformerOptions

__all__ = [
    "ACTIVATIONS",
    "AutoencoderBlock2D",
    "Conv2d",
    "CrossAttention",
    "Decoder",
    "DownBlock2D",
    "Downsample2D",
    "Encoder",
    "GroupNormAct",
    "MidBlock2D",
    "ResnetBlock2D",
    "ResnetOptions",
    "SpatialAttention",
    "SpatialTransformer",
    "TextContext",
    "TimestepEmbedding",
    "TransformerOptions",
    "UpBlock2D",
    "Upsample2D",
    "VectorQuantizer",
    "activation",
    "at_row",
    "channels_last_on_cpu",
    "repeat_rows",
    "sinusoidal_embedding",
    "timesteps_of_call",
]
