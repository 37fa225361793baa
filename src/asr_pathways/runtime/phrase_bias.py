"""Phrase bias: phrases that a beam search prefers, in a trie with failure links (Aho and Corasick 1975)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from asr_pathways.errors import PathwaysError
from asr_pathways.files import read_text


def read_phrases(path: Path) -> list[str]:
    """The phrases of a UTF-8 text file, one a line.

    Raises:
        PathwaysError: if it cannot be read, or is or has a line without text.
    """
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines or [""], 1):
        if not line.strip():
            raise PathwaysError(f"{path}: line {number}: no phrase in it")
    return lines


@dataclass
class _Node:
    bonus: float = 0.0  # of all symbols on the way here
    earned: float = 0.0  # the part of it that is kept: that of the longest phrase that was finished on the way
    following: dict[int, int] = field(default_factory=dict)
    back: int = 0  # the node of the longest suffix that is a way into the trie as well


class PhraseBias:
    """Adds a bonus for each symbol of a phrase, and subtracts the bonuses of phrases that are not finished.

    Args:
        phrases: each as symbols, at least one.
        bonus: for each symbol, in nats; below 0 for phrases to avoid.
    """

    def __init__(self, phrases: Iterable[Sequence[int]], bonus: float) -> None:
        self._nodes = [_Node()]
        self._sign, bonus = math.copysign(1.0, bonus), abs(bonus)
        for phrase in phrases:
            at = 0
            for symbol in phrase:
                if symbol not in self._nodes[at].following:
                    self._nodes[at].following[symbol] = len(self._nodes)
                    self._nodes.append(_Node(self._nodes[at].bonus + bonus))
                at = self._nodes[at].following[symbol]
            self._nodes[at].earned = self._nodes[at].bonus
        self._link()

    def step(self, state: int, symbol: int) -> tuple[int, float]:
        """The state after a state (0 is the start) and a symbol, and what is added to the score."""
        added = 0.0
        while symbol not in self._nodes[state].following and state:
            node = self._nodes[state]
            back = self._nodes[node.back]
            added += back.bonus - node.bonus + max(0.0, node.earned - back.earned)
            state = node.back
        following = self._nodes[state].following.get(symbol, 0)
        return following, self._sign * (added + self._nodes[following].bonus - self._nodes[state].bonus)

    def rest(self, state: int) -> float:
        """What is added to the score if the text ends in this state: minus the bonus of an unfinished phrase."""
        return self._sign * (self._nodes[state].earned - self._nodes[state].bonus)

    def _link(self) -> None:
        waiting = deque([0])
        while waiting:
            at = waiting.popleft()
            node = self._nodes[at]
            for symbol, index in node.following.items():
                new = self._nodes[index]
                if at:
                    back = node.back
                    while symbol not in self._nodes[back].following and back:
                        back = self._nodes[back].back
                    new.back = self._nodes[back].following.get(symbol, 0)
                new.earned = max(new.earned, node.earned, self._nodes[new.back].earned)
                waiting.append(index)
