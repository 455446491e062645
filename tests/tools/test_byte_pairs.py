"""The vocabulary made of captions: pairs in the order of Sennrich et al., words as tokens."""

from __future__ import annotations

from pathlib import Path

from byte_pairs import learn_byte_pairs
from septet.cli.emoji_judge import load_emoji
from septet.text import GlideTokenizer


def test_the_example_of_the_paper() -> None:
    texts = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    tokenizer = learn_byte_pairs(texts, least_count=7)
    assert tokenizer.merges == [("e", "s"), ("es", "t"), ("l", "o"), ("lo", "w")]
    assert tokenizer.n_vocab == 256 + 4 + 1
    pieces = [tokenizer.decode([index]) for index in tokenizer.encode("lowest lot")]
    assert pieces == ["low", "est", " ", "lo", "t"]


def test_every_word_of_the_captions_is_a_token(tmp_path: Path) -> None:
    captions = load_emoji().captions
    tokenizer = learn_byte_pairs(captions)
    for caption in captions:
        assert len(tokenizer.encode(caption)) == len(caption.split())
        assert tokenizer.decode(tokenizer.encode(caption)) == caption
    assert tokenizer.decode(tokenizer.encode("ein Pilz 🍄")) == "ein pilz 🍄"
    tokenizer.save_pretrained(tmp_path)
    again = GlideTokenizer.from_pretrained(tmp_path)
    assert (again.vocab, again.merges) == (tokenizer.vocab, tokenizer.merges)
