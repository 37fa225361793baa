"""Pathways in Lightning: swap in your module, and your data with a `language` on each item.

python examples/lightning_pathways.py runs/lightning-pathways
"""

import sys
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import nn
from torch.nn.functional import ctc_loss
from torch.utils.data import DataLoader

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.integrations.batches import LanguageBatches
from asr_pathways.integrations.lightning import PathwaysCallback


def speech(size: int) -> list[dict[str, object]]:
    """Noise for speech: items of {features, labels, language}."""
    return [
        {"features": torch.randn(20, 16), "labels": torch.randint(1, 12, (3,)), "language": language}
        for language in ("en", "fr")
        for _ in range(size)
    ]


class Recogniser(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.LSTM(16, 32, num_layers=2, batch_first=True)
        self.output = nn.Linear(32, 12)

    def training_step(self, batch: dict, index: int) -> torch.Tensor:
        scores = self.output(self.encoder(batch["features"])[0]).log_softmax(-1)
        count, frames, _ = scores.shape
        return ctc_loss(scores.transpose(0, 1), batch["labels"], [frames] * count, [3] * count)

    def validation_step(self, batch: dict, index: int) -> None:
        self.log(f"loss of {batch['language']}", self.training_step(batch, index), batch_size=len(batch["labels"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(out: Path, epochs: int = 3) -> dict[str, float]:
    module = Recogniser()
    config = PathwayConfig(sparsity=0.7, score="activation", adapt_every=5, exclude=("output",))
    pathways = Pathways.attach(module, config, ["en", "fr"])
    trainer = Trainer(max_epochs=epochs, default_root_dir=out, callbacks=[PathwaysCallback(pathways)], logger=False)
    batches = DataLoader(LanguageBatches(speech(16), 4), batch_size=None, shuffle=True)
    trainer.fit(module, batches)  # goes on from a checkpoint with ckpt_path="last", weights_only=True
    scores = trainer.validate(module, DataLoader(LanguageBatches(speech(4), 4), batch_size=None))[0]
    pathways.save(out / "pathways")
    print(pathways.summary().union_density, scores)
    return dict(scores)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
