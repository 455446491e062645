"""The text front end of Grad-TTS against that of its authors."""

from __future__ import annotations

import hashlib
import json
import lzma
from importlib import resources
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from septet import CheckpointError, GradTTSTokenizer
from septet.text.cleaners import clean_english
from septet.text.pronunciation import cmudict, parse_pronunciations
from septet.text.symbols import BLANK_ID, SPACE_ID, SYMBOLS, symbol_ids

ORACLE = json.loads(
    (Path(__file__).parents[1] / "data" / "oracles" / "grad_tts_text.json").read_text()
)
CASES = ORACLE["cases"]


def show(ids):
    """Return the symbols of ids, phonemes in braces."""
    text = "".join(
        f"{{{SYMBOLS[i][1:]}}}" if SYMBOLS[i].startswith("@") else SYMBOLS[i] for i in ids
    )
    return text.replace("}{", " ")


def test_symbols():
    assert list(SYMBOLS) == ORACLE["symbols"]
    assert BLANK_ID == ORACLE["blank_id"] == len(SYMBOLS)
    assert GradTTSTokenizer.vocab_size == ORACLE["n_vocab"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"][:20])
def test_sentences_of_the_authors(case):
    tokenizer = GradTTSTokenizer()
    assert clean_english(case["text"]) == case["cleaned"]
    if case.get("raises"):
        assert case["text"] == ""
        with pytest.raises(ValueError, match="text must hold something to read"):
            tokenizer(case["text"])
        return
    assert GradTTSTokenizer(add_blank=False).symbol_ids(case["text"]) == case["ids"]
    assert tokenizer(case["text"]) == case["interspersed"]


def test_dictionary_is_the_authors():
    packed = (resources.files("septet") / "assets" / "cmudict.txt.xz").read_bytes()
    digest = hashlib.sha256(lzma.decompress(packed)).hexdigest()
    assert digest == ORACLE["cmu_dictionary_sha256"]
    assert len(cmudict()) == ORACLE["cmu_dictionary_entries"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "{HH AH0 L OW1}, {W ER1 L D}!"),
        ("(don't)", "({D OW1 N T})"),
        ("'tis", "{T IH1 Z}"),
        ("ninety-nine.", "{N AY1 N T IY0} {N AY1 N}."),
        ("e-mail", "{IY1 M EY2 L}"),
        ("xqzt-two,", "xqzt {T UW1},"),
        ("... ?!", "... ?!"),
        ("a -- b", "{EY1} -- {B IY1}"),
    ],
)
def test_punctuation_can_be_set_aside(text, expected):
    assert show(GradTTSTokenizer(strip_punctuation=True).symbol_ids(text)) == expected


@settings(deadline=None)
@given(st.text(max_size=40), st.booleans())
def test_any_text(text, strip):
    ids = GradTTSTokenizer(strip_punctuation=strip).symbol_ids(text)
    assert all(0 < index < len(SYMBOLS) for index in ids)


@given(st.lists(st.sampled_from(["hello", "world", "zxqv", "two"]), min_size=1, max_size=5))
def test_words_are_independent(words):
    tokenizer = GradTTSTokenizer()
    expected = []
    for word in words:
        expected += [*tokenizer.symbol_ids(word), SPACE_ID]
    assert tokenizer.symbol_ids(" ".join(words)) == expected[:-1]


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["a list"]])
def test_other_types_are_refused(text):
    with pytest.raises(ValueError, match="text must be a string"):
        GradTTSTokenizer()(text)


@pytest.mark.parametrize("text", ["", "   ", "\n", "😀", "{}~_", "{ }"])
def test_nothing_to_read_is_refused(text):
    with pytest.raises(ValueError, match="text must hold something to read"):
        GradTTSTokenizer()(text)


def test_dictionary_lines():
    found = parse_pronunciations(
        [
            ";;; a comment\n",
            "WORLD  W ER1 L D\n",
            "WORLD(1)  W ER0 L D\n",
            "ODD(1)  AA1 D\n",
            "BAD  XX1 Y\n",
            "BAD(1)  B AE1 D\n",
            "NOGAP W ER1\n",
            "'TIS  T IH1 Z\n",
            "lower  L OW1\n",
            "\n",
        ]
    )
    assert found == {"WORLD": "W ER1 L D", "ODD": "AA1 D", "BAD": "B AE1 D", "'TIS": "T IH1 Z"}


@given(st.text(alphabet="AB'( )1\t;é  ", max_size=60))
def test_any_dictionary(content):
    for word, phonemes in parse_pronunciations(content.split("\n")).items():
        assert word[:1].isalpha() or word[:1] in "'"
        assert symbol_ids(f"@{p}" for p in phonemes.split()) != []


def test_saving(tmp_path):
    GradTTSTokenizer(strip_punctuation=True).save_pretrained(tmp_path / "tokenizer")
    loaded = GradTTSTokenizer.from_pretrained(tmp_path, subfolder="tokenizer")
    assert loaded.config == {"strip_punctuation": True, "add_blank": True}
    assert not (tmp_path / "tokenizer" / "dict_file.txt").exists()


def test_a_dictionary_in_the_folder_counts(tmp_path):
    content = "WORLD  B AE1 D\nCAF\xc9  K AE1 F\n"
    (tmp_path / "dict_file.txt").write_text(content, encoding="latin-1")
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 5, "bos_token": null}')
    tokenizer = GradTTSTokenizer.from_pretrained(tmp_path)
    assert show(tokenizer.symbol_ids("world hello")) == "{B AE1 D} hello"
    tokenizer.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "dict_file.txt").read_text(encoding="latin-1") == content
    again = GradTTSTokenizer.from_pretrained(tmp_path / "again")
    assert again("world hello") == tokenizer("world hello")


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "dict_file.txt").write_text("no dictionary at all\n")
    with pytest.raises(CheckpointError, match=r"dict_file\.txt: no line"):
        GradTTSTokenizer.from_pretrained(tmp_path)
    (tmp_path / "dict_file.txt").unlink()
    (tmp_path / "tokenizer_config.json").write_text('{"strip_punctuation": 3}')
    with pytest.raises(CheckpointError, match="strip_punctuation"):
        GradTTSTokenizer.from_pretrained(tmp_path)
