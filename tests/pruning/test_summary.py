from __future__ import annotations

from asr_pathways.pruning import MaskEvent


def test_an_event_reads_as_a_line() -> None:
    event = MaskEvent("adapt", "fr", 10, 0.7, 0.0123, "activation", union_density=0.34, mean_iou=0.927)
    assert str(event) == (
        "adapt fr: 70.0% sparse, 1.2% of weights changed, by activation; mean IoU 0.93, union density 34.0%"
    )
    event = MaskEvent("prune", None, 10, 0.36, 0.16, "magnitude", union_density=0.64, rewound=True)
    assert str(event) == (
        "prune the shared mask: 36.0% sparse, 16.0% of weights changed, by magnitude; weights rewound"
    )
