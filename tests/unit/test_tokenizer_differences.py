"""The table of characters in docs/gpu-texts.md: those that it names do differ, and the ones around them do not."""

import importlib.util
import re
import unicodedata

import pytest
from fake_rapids import FakeDevice, on_host

from dualpath.readability.device import DeviceTokenEncoder
from paths import ROOT

_spec = importlib.util.spec_from_file_location("tokenizer_differences", ROOT / "tools" / "tokenizer_differences.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

DOCS = (ROOT / "docs" / "gpu-texts.md").read_text()
ROWS = re.findall(r"^\| ([A-Z][a-z]) \| ([\d,]+) \| ([0-9A-F -]+?) ?…? \| (.+) \|$", DOCS, re.MULTILINE)


@pytest.mark.parametrize(("category", "examples", "why"), [(row[0], row[2], row[3]) for row in ROWS])
def test_characters_that_the_docs_name_differ_for_the_reason_given(model_repository, category, examples, why):
    ends = [int(code, 16) for code in re.findall(r"[0-9A-F]{4,6}", examples)]
    characters = [chr(code) for code in ends if unicodedata.category(chr(code)) == category]
    assert characters or unicodedata.unidata_version != "14.0.0"
    assert all(tool.differ([tool.alone(character) for character in characters]))
    assert why == tool.WHY.get(category, tool.NEWER)


def test_no_character_below_the_first_of_the_docs_differs(model_repository):
    first = min(int(code, 16) for row in ROWS for code in re.findall(r"[0-9A-F]{4,6}", row[2]))
    assert first > 0x24F  # all of Latin
    assert not any(tool.differ([tool.alone(chr(code)) for code in range(first)]))


@pytest.mark.parametrize("script", ["\u3042", "\u0e01", "\u0627"])  # kana, Thai, Arabic: 3, 3 and 2 bytes a character
def test_words_of_200_bytes_are_unknown_to_cudf_alone_as_the_docs_say(model_repository, script):
    assert re.search(r"Words of at most 100 characters and at least 200 bytes", " ".join(DOCS.split()))
    fits, too_long = (script * n for n in (199 // len(script.encode()), -(-200 // len(script.encode()))))
    assert len(too_long) <= 100
    assert tool.differ([fits.encode(), too_long.encode()]) == [False, True]


def test_private_use_characters_are_words_to_cudf_and_nothing_to_bert(model_repository):
    cpu = tool.TokenEncoder(tool.TOKENIZER)
    gpu = DeviceTokenEncoder(tool.TOKENIZER, FakeDevice().rapids())
    with_one, without = "a \ue000 b".encode(), b"a b"
    assert cpu.encode([with_one])[0].tolist() == cpu.encode([without])[0].tolist()
    assert len(on_host(gpu.encode([with_one])[0])) == len(cpu.encode([without])[0]) + 1
