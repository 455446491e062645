"""The list of captions: read as written, and what the packaged pictures were made from."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from septet.cli.emoji_judge import load_emoji

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture(scope="module")
def emoji_data() -> ModuleType:
    spec = importlib.util.spec_from_file_location("emoji_data", TOOLS / "emoji_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["emoji_data"] = module
    spec.loader.exec_module(module)
    return module


def test_lines(emoji_data: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text(
        "# fruit\n\napple: red apple *\nhot_dog\n-1: thumbs down\n[held out]\nold_key\n"
    )
    entries = emoji_data.read_captions(path)
    assert [(e.short_name, e.caption, e.is_prompt, e.is_train) for e in entries] == [
        ("apple", "red apple", True, True),
        ("hot_dog", "hot dog", False, True),
        ("-1", "thumbs down", False, True),
        ("old_key", "old key", False, False),
    ]


@pytest.mark.parametrize("text", ["bat\nbat: flying bat\n", "bat\nrat: bat\n"])
def test_refuses_what_occurs_twice(emoji_data: ModuleType, tmp_path: Path, text: str) -> None:
    path = tmp_path / "captions.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"captions\.txt: bat occurs more than once"):
        emoji_data.read_captions(path)


def test_the_package_holds_this_list(emoji_data: ModuleType) -> None:
    entries = emoji_data.read_captions(emoji_data.CAPTIONS)
    emoji = load_emoji()
    assert tuple(e.caption for e in entries) == emoji.captions
    assert [e.is_prompt for e in entries] == emoji.is_prompt.tolist()
    assert [e.is_train for e in entries] == emoji.is_train.tolist()
