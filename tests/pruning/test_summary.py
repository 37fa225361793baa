from __future__ import annotations

import pytest
from torch import nn

from asr_pathways.pruning import MaskEvent, PathwayConfig, Pathways
from asr_pathways.pruning.summary import Summary


def test_an_event_reads_as_a_line() -> None:
    event = MaskEvent("adapt", "fr", 10, 0.7, 0.0123, "activation", union_density=0.34, mean_iou=0.927)
    assert str(event) == (
        "adapt fr: 70.0% sparse, 1.2% of weights changed, by activation; mean IoU 0.93, union density 34.0%"
    )
    event = MaskEvent("prune", None, 10, 0.36, 0.16, "magnitude", union_density=0.64, rewound=True)
    assert str(event) == (
        "prune the shared mask: 36.0% sparse, 16.0% of weights changed, by magnitude; weights rewound"
    )


def test_a_summary_prints_as_a_table() -> None:
    summary = Summary(
        weights=2000,
        sparsity={"en": 0.7, "<fr>": 0.65},
        tensors={},
        union_density=0.4,
        union={},
        mean_iou=0.5,
        mask_bytes=500,
    )
    assert str(summary).splitlines() == [
        "pathway         sparsity %  weights kept",
        "en                    70.0           600",
        "<fr>                  65.0           700",
        "in any pathway        60.0           800",
        "of 2,000 prunable weights; mean IoU of two pathways 0.50; masks 500 bytes",
    ]
    html = summary._repr_html_()
    assert "<tr><td>&lt;fr&gt;</td><td>65.0</td><td>700</td></tr>" in html and "<fr>" not in html


def test_a_guessed_name_leads_to_the_right_one() -> None:
    pathways = Pathways.attach(nn.Linear(4, 4), PathwayConfig(sparsity=0.5), ["en", "fr"])
    with pytest.raises(AttributeError, match=r"no 'masks': use mask\(language\)"):
        pathways.masks  # noqa: B018
    with pytest.raises(AttributeError, match="no 'overlaps': use overlap"):
        pathways.overlaps  # noqa: B018
    assert not hasattr(pathways, "__deepcopy__") and not hasattr(pathways, "_repr_html_")
