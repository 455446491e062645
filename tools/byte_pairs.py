"""Makes the vocabulary of a byte-level byte pair encoding from texts (Sennrich et al. 2016)."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from septet.text.byte_pair import END_OF_TEXT, GlideTokenizer, byte_characters

# Of plain ASCII texts the same words as GPT-2 takes.
_WORDS = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+")


def learn_byte_pairs(texts: Sequence[str], least_count: int = 1) -> GlideTokenizer:
    """Join the most frequent pair of neighbours, again and again.

    Args:
        texts: In plain ASCII.
        least_count: A pair is joined if it occurs at least so often. With 1 every word of the
            texts becomes a token.

    Returns:
        The tokenizer, with the bytes, the joined pairs and the end of text as its tokens.
    """
    characters = byte_characters()
    counts = Counter(word for text in texts for word in _WORDS.findall(text.lower()))
    words = {word: [characters[byte] for byte in word.encode()] for word in counts}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, pieces in words.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += counts[word]
        # the first in order among the most frequent, so that the result is always the same
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < least_count:
            break
        merges.append(best)
        words = {word: _join(pieces, best) for word, pieces in words.items()}
    tokens = [*characters, *dict.fromkeys(first + second for first, second in merges), END_OF_TEXT]
    return GlideTokenizer({token: index for index, token in enumerate(tokens)}, merges)


def _join(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    """Join a pair wherever it occurs, from the left."""
    joined: list[str] = []
    index = 0
    while index < len(pieces):
        width = 2 if tuple(pieces[index : index + 2]) == pair else 1
        joined.append("".join(pieces[index : index + width]))
        index += width
    return joined
