"""Text front ends: from a sentence to the ids that a network takes."""

from septet.text.byte_pair import GlideTokenizer
from septet.text.grad_tts_tokenizer import GradTTSTokenizer

__all__ = ["GlideTokenizer", "GradTTSTokenizer"]
