"""Check the answers of a load, after each turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dualpath.compare.agreement import Agreement, Answer
from dualpath.compare.connection import reason
from dualpath.compare.load import Contender

MAX_KEPT = 256 * 2**20
"""Bytes of answers that a turn keeps."""
MAX_CHECKED_S = 0.5
"""How long the answers of a turn are checked."""

Decode = Callable[[str, Any], Answer]
"""Makes outputs of a contender's answer."""


class LoadCheck:
    """Keeps the answers of a contender's turn, and judges them after it, so that the turn itself costs no time.

    An answer that is the same to the byte as an earlier one to the same request is not judged again.

    Attributes:
        unreadable: for each contender why the first answer that could not be decoded could not be.
    """

    def __init__(self, agreement: Agreement, decode: Decode) -> None:
        self._agreement, self._decode = agreement, decode
        self._fresh: list[tuple[int, Any]] = []
        self._size = 0
        self._known: dict[tuple[str, int], set[tuple[int, Any]]] = {}
        self.n_answers = self.n_checked = 0
        self.unreadable: dict[str, str] = {}

    def keep(self, answered: tuple[int, Any]) -> None:
        """Take an answer with the number of its request."""
        self.n_answers += 1
        if self._size < MAX_KEPT:
            self._size += len(answered[1]) if isinstance(answered[1], bytes) else sum(map(len, answered[1]))
            self._fresh.append(answered)

    def settle(self, contender: Contender, company: str) -> None:
        """Judge what the turn kept, as far as there is time."""
        known = self._known.setdefault((contender.name, contender.n_rows), set())
        end = time.perf_counter() + MAX_CHECKED_S
        for answered in self._fresh:
            if answered not in known:
                if time.perf_counter() > end:
                    continue
                known.add(answered)
                try:
                    answer = self._decode(contender.name, answered[1])
                except (ValueError, KeyError) as error:
                    self.unreadable.setdefault(contender.name, reason(error))
                else:
                    self._agreement.judge(contender.name, contender.rows[answered[0]], answer, company)
            self.n_checked += 1
        self._fresh, self._size = [], 0

    def __str__(self) -> str:
        if self.n_checked == self.n_answers:
            return f"all {self.n_answers:,} checked"
        return f"{self.n_checked:,} of {self.n_answers:,} checked ({self.n_checked / self.n_answers:.0%})"
