"""List the characters that cuDF's tokenizer is known to treat otherwise than BERT's: the table in docs/gpu-texts.md.

What cuDF does is taken from its documentation, by the tests' double (`tests/unit/fake_rapids.py`), with the Unicode
tables of the running Python. Each character stands alone between two words, so that it is seen by the normalizer, and
the count of texts that differ is that of `random_texts`.

Usage: .venv/bin/python tools/tokenizer_differences.py
"""

import sys
import unicodedata
from collections import defaultdict
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "unit")]

from fake_rapids import FakeDevice, on_host  # noqa: E402
from random_texts import random_texts  # noqa: E402

from dualpath.readability.device import DeviceTokenEncoder  # noqa: E402
from dualpath.readability.tokens import TokenEncoder  # noqa: E402

N_TEXTS = 10_000
N_BATCH = 512
TOKENIZER = ROOT / "model_repository" / "bert-large" / "1" / "tokenizer.json"
NEWER = "assigned, or moved to this category, since the Unicode of Hugging Face's tables"
CHINESE = "Chinese, extension E: a word each to BERT's tokenizer, parts of words to cuDF"
WHY = {"Co": "private use: BERT's tokenizer drops them, cuDF keeps them", "Cn": CHINESE, "Lo": CHINESE}
N_RANGES = 4


def differ(texts: list[bytes], tokenizer_json: Path = TOKENIZER) -> list[bool]:
    """Say of each text whether cuDF, as documented, gives other token ids than BERT's tokenizer."""
    cpu, gpu = TokenEncoder(tokenizer_json), DeviceTokenEncoder(tokenizer_json, FakeDevice().rapids())
    found: list[bool] = []
    for start in range(0, len(texts), N_BATCH):
        batch = texts[start : start + N_BATCH]
        pairs = zip(cpu.encode(batch), gpu.encode(batch), strict=True)
        found += [row.tolist() != on_host(other).tolist() for row, other in pairs]
    return found


def alone(character: str) -> bytes:
    """Put a character where it may join or part two words."""
    return f"a{character}b {character}".encode()


def main() -> None:
    """Print a table of categories, and how many random texts differ."""
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    kinds: dict[str, list[str]] = defaultdict(list)
    for character, differs in zip(characters, differ([alone(c) for c in characters]), strict=True):
        if differs:
            kinds[unicodedata.category(character)].append(character)
    print(f"Unicode {unicodedata.unidata_version}: {sum(map(len, kinds.values())):,} characters differ\n")
    print("| category | characters | such as | why |\n| --- | --- | --- | --- |")
    for kind, members in sorted(kinds.items()):
        print(f"| {kind} | {len(members):,} | {_ranges(members)} | {WHY.get(kind, NEWER)} |")
    for any_character in (False, True):
        n_differ = sum(differ(random_texts(N_TEXTS, seed=2, any_character=any_character)))
        print(f"{n_differ} of {N_TEXTS} random texts differ, characters from all of Unicode: {any_character}")


def _ranges(characters: list[str]) -> str:
    runs = groupby(enumerate(map(ord, characters)), lambda it: it[1] - it[0])  # of neighbours
    ranges = [[code for _, code in run] for _, run in runs]
    shown = [f"{it[0]:04X}" if len(it) == 1 else f"{it[0]:04X}-{it[-1]:04X}" for it in ranges[:N_RANGES]]
    return " ".join(shown) + (" …" if len(ranges) > N_RANGES else "")


if __name__ == "__main__":
    main()
