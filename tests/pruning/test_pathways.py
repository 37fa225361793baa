from __future__ import annotations

import torch
from torch import nn

from asr_pathways import PathwayConfig, Pathways


def test_a_block_sees_the_sub_network_and_leaves_the_dense_weights_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5), ["en", "fr"])
    with pathways.use("fr"):
        inside = {name: value.clone() for name, value in model.state_dict().items()}
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
    assert all(torch.equal(inside[name], value) for name, value in pathways.extract("fr").items())
    assert all(torch.equal(inside[n] != 0, mask) for n, mask in pathways.mask("fr").items())
