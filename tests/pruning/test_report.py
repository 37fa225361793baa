from __future__ import annotations

from asr_pathways.pruning import MaskEvent


def test_an_event_reads_as_a_line() -> None:
    event = MaskEvent("adapt", "fr", 10, sparsity=0.7, changed=0.0123, score="activation")
    assert str(event) == "adapt fr: 70.0% sparse, 1.2% of weights changed, by activation"
    event = MaskEvent("prune", None, 10, sparsity=0.36, changed=0.16, score="magnitude", rewound=True)
    assert str(event) == "prune the shared mask: 36.0% sparse, 16.0% of weights changed, by magnitude, weights rewound"
