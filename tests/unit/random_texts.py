"""Random texts with what real ones hold, and with what breaks parsers."""

from __future__ import annotations

import random
import string
import unicodedata

from dualpath.readability.features import LOOK_ALIKES, STOP_WORDS, holds_word

_PROSE = """
the cat sat on mat and then it ran away quickly because dog barked loudly at night naïve café Zürich unbelievable
institutionalization antidisestablishmentarianism don't won't well-known e.g. U.S.A. 3.14 1,000 2nd O'Neill's
rock'n'roll ÉCOLE straße ΣΊΣΥΦΟΣ İstanbul dž ﬁne x² ½
"""
_FOREIGN = "مرحبا بالعالم שלום עולם привет мир 你好 世界 こんにちは 안녕하세요 नमस्ते สวัสดี 𝔘𝔫𝔦 ﷺ"
_MARKS = (*string.punctuation, "...", "?!", '."', ".')", "--", "((", "[.]", ". ", "! ", "? ", '" ', ".’ ", "…” ")
_SPACES = (" ", " ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u2003", "\u2028", "\u3000")
_EMOJI = ("😀", "👍🏽", "👩‍👩‍👧", "🇩🇪", "❤️", "☕", "©")
_COMBINING = ("e\u0301", "a\u0308\u0323", "\u0301", "n\u0303o", "\u1100\u1161\u11a8", "i\u0307")
_UNSEEN = (
    "\u200b",
    "\u200d",
    "\u200f",
    "\u202e",
    "\u2066",
    "\ufeff",
    "\u00ad",
    "\x00",
    "\x07",
    "\x1b",
    "\x7f",
    "\ufffd",
)
_LONG = ("a" * 99, "b" * 100, "c" * 101, "d" * 199, "Ab1" * 80, "é" * 99, "-" * 60, "." * 60)
_SPECIAL = ("[SEP]", "[CLS]", "[MASK]", "[PAD]", "[UNK]", "[sepia]", "[ ]", "##ing")


def random_texts(n_texts: int, seed: int, listed: tuple[str, ...] = (), any_character: bool = False) -> list[bytes]:
    """Return texts with at least one word each, always the same for a seed.

    Args:
        listed: words to be drawn often.
        any_character: with characters from all of Unicode, else only such that every version of it agrees on.
    """
    draw = random.Random(seed)
    prose = _PROSE.split()
    pools = [
        *[prose] * 5,
        *[sorted(STOP_WORDS)] * 2,
        listed or prose,
        *[_MARKS] * 3,
        "".join(LOOK_ALIKES.values()),
        _FOREIGN.split(),
        _EMOJI,
        _COMBINING,
        _UNSEEN,
        _SPECIAL,
        _LONG,
    ]

    def piece() -> str:
        if any_character and draw.random() < 0.1:
            return chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000))))
        if draw.random() < 0.1:
            return draw.choice(_settled())
        chosen = str(draw.choice(draw.choice(pools)))
        return chosen.upper() if draw.random() < 0.1 else chosen

    texts: list[bytes] = []
    while len(texts) < n_texts:
        n_pieces = draw.choice((1, 2, 5, 10, 20, 20, 40, 40, 60, 500 if draw.random() < 0.2 else 60))
        text = "".join(piece() + (draw.choice(_SPACES) if draw.random() < 0.7 else "") for _ in range(n_pieces))
        if holds_word(text.encode()):
            texts.append(text.encode())
    return texts


_SETTLED: list[str] = []


def _settled() -> list[str]:
    """Return the characters of Unicode 3.2 whose category has not changed since."""
    if not _SETTLED:
        old = unicodedata.ucd_3_2_0
        candidates = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xF900)
        _SETTLED.extend(
            c for c in candidates if (kind := old.category(c)) not in ("Cn", "Co") and kind == unicodedata.category(c)
        )
    return _SETTLED
