"""Contenders of any kind, measured in turns: models on a server, and the limit in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dualpath.compare.load import Turn


def in_turns(
    contenders: Mapping[str, Callable[[int], Turn]], n_turns: int, seed: int = 0, warm_up: int = 1
) -> dict[str, list[Turn]]:
    """Measure contenders in short turns, in random order within each round, so that a drifting machine hits all.

    Args:
        contenders: by name, what measures one turn; gets a random number, the request to start with.
        n_turns: turns of each contender that count.
        warm_up: rounds before them that do not.
    Returns:
        For each name its turns; the i-th turns of all were measured next to each other.
    """
    rng = np.random.default_rng(seed)
    names = list(contenders)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for number in range(-warm_up, n_turns):
        start = int(rng.integers(1 << 16))  # the same requests for all contenders of a round
        for index in rng.permutation(len(names)):
            turn = contenders[names[index]](start)
            if number >= 0:
                turns[names[index]].append(turn)
    return turns
