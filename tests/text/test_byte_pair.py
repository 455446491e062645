"""GLIDE's tokenizer: the authors' ids, what holds for any text, files good and bad."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from septet.errors import CheckpointError
from septet.text import GlideTokenizer
from septet.text.byte_pair import _MERGES_ASSET, _read_bytes, byte_characters

ORACLE = json.loads(
    (Path(__file__).parents[1] / "data" / "oracles" / "glide_tokenizer.json").read_text()
)

BUNDLED = GlideTokenizer.bundled()


@pytest.mark.parametrize("case", ORACLE["cases"], ids=lambda case: ascii(case["text"])[:40])
def test_ids_and_masks_of_the_authors(case):
    ids = BUNDLED.encode(case["text"])
    assert ids == case["ids"]
    assert BUNDLED.decode(ids) == case["decoded"]
    padded, mask = BUNDLED([case["text"], ""], 128)
    assert padded[0].tolist() == (ids + [ORACLE["end_token"]] * 128)[:128]
    assert mask[0].tolist() == [index < len(ids) for index in range(128)]
    assert padded[1].eq(ORACLE["end_token"]).all()
    assert not mask[1].any()


def test_bundled_files_are_the_authors():
    digest = hashlib.sha256(_read_bytes(_MERGES_ASSET)).hexdigest()
    assert digest == ORACLE["sha256_uncompressed"]["vocab.bpe.gz"]
    # encoder.json is what json.dumps makes of the vocabulary in the order of its ids
    text = json.dumps(BUNDLED.vocab)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == ORACLE["sha256_uncompressed"]["encoder.json.gz"]
    assert (BUNDLED.n_vocab, BUNDLED.end_token) == (ORACLE["n_vocab"], ORACLE["end_token"])


@given(st.text(max_size=60))
def test_any_text_survives(text):
    ids = BUNDLED.encode(text)
    assert BUNDLED.decode(ids) == text.lower()
    assert all(0 <= index < BUNDLED.end_token for index in ids)


@given(st.text(alphabet="ab d'", max_size=30))
def test_merges_as_their_definition_says(text):
    """Join the pair of lowest rank at all its places, from the left, again and again."""
    merges = [("a", "b"), ("a", "a"), ("ab", "ab"), ("Ġ", "ab"), ("aa", "a"), ("b", "b")]
    tokenizer = _small(merges)
    expected = []
    for word in _split(text):
        for first, second in merges:
            word = f" {' '.join(word)} ".replace(" ", "  ")
            word = word.replace(f" {first}  {second} ", f" {first}{second} ").split()
        expected += word
    # every merge is written after those that made its parts, so one pass through all is the same
    assert [tokenizer._tokens[index] for index in tokenizer.encode(text)] == expected


def _split(text):
    import regex

    found = regex.findall(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", text
    )
    return [list(word.replace(" ", "Ġ")) for word in found]


def _small(merges=(("a", "b"),)):
    tokens = [*byte_characters(), *("".join(pair) for pair in merges), "<end>"]
    return GlideTokenizer({token: i for i, token in enumerate(tokens)}, list(merges))


def test_only_what_is_asked_for_is_encoded():
    tokens, mask = _small()(["ab " * 5 + "a" * 5000], 4)
    assert mask.all()
    assert _small().decode(tokens[0].tolist()) == "ab ab "


# -- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_save_and_load(tmp_path, names):
    small = _small([("a", "b"), ("Ġ", "ab"), ("#", "a")])
    small.save_pretrained(tmp_path / "tokenizer")
    for ours, theirs in zip(("vocab.json", "merges.txt"), names, strict=True):
        (tmp_path / "tokenizer" / ours).rename(tmp_path / "tokenizer" / theirs)
    loaded = GlideTokenizer.from_pretrained(tmp_path, subfolder="tokenizer")
    assert (loaded.vocab, loaded.merges) == (small.vocab, small.merges)
    assert loaded.encode(" ab#a") == small.encode(" ab#a")


def _with(content, name="merges.txt"):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "merges.txt").unlink(), "expected vocab.json and merges.txt, or"),
        (lambda folder: (folder / "vocab.json").unlink(), "no byte pair encoding found"),
        (_with(b"#version: 0.2\na b c\n"), "line 2 must be a pair, got 'a b c'"),
        (_with(b"\xff\xfe"), "merges.txt: not UTF-8"),
        (_with(b"x y\n"), "lacks 'xy'"),
        (_with(b"[]", "vocab.json"), "expected a JSON object"),
        (_with(b'{"a": 1.5}', "vocab.json"), "'a' must have an integer id"),
        (_with(b'{"a": true}', "vocab.json"), "'a' must have an integer id"),
        (_with(b'{"a": 7}', "vocab.json"), "without gaps"),
        (_with(b'{"a": 0, "b": 0}', "vocab.json"), "without gaps"),
        (_with(b'{"a": 0}', "vocab.json"), "lacks"),
    ],
)
def test_damaged_files(tmp_path, damage, match):
    _small().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=match) as caught:
        GlideTokenizer.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "match"),
    [
        (3, "prompt must be a string, got 3"),
        (None, "prompt must be a string, got None"),
        (b"a", "prompt must be a string"),
        ("a" * 4097, "at most 4096 bytes, got 4097"),
        ("\ud800", "valid Unicode"),
    ],
)
def test_bad_prompts(prompt, match):
    with pytest.raises(ValueError, match=match):
        _small().encode(prompt)
