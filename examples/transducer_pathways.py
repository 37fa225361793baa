"""Pathways of a transducer from the hub, trained on this package's batches in a loop of your own.

python examples/transducer_pathways.py nvidia/parakeet-tdt-0.6b-v3 data/prompts en,fr runs/parakeet-pathways
"""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.bundle.load import load_model
from asr_pathways.data.batches import DataConfig, TrainBatches
from asr_pathways.data.corpus import load_cuts
from asr_pathways.evaluation.wer import score
from asr_pathways.model_folder.decode import decode_split
from asr_pathways.model_folder.folder import save_model


def main(name: str, data: Path, languages: Sequence[str], out: Path, steps: int = 1000) -> float:
    asr = load_model(name)
    model = asr.model
    config = PathwayConfig(sparsity=0.7, score="activation", adapt_every=100, exclude=model.unprunable)
    pathways = asr.pathways = Pathways.attach(model.network, config, languages)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    cuts = load_cuts(data, "train", languages).to_eager()
    batches = TrainBatches(cuts, asr.tokenizer, DataConfig(max_seconds=20), model.frontend)
    model.train()
    for batch in islice(batches, steps):
        with pathways.use(batch.language):
            model.loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
        pathways.step(optimizer)
    save_model(out, asr)  # a folder that transformers reads, and pathways/ beside it
    scores = score(decode_split(asr, data, "test", languages))
    print(f"mean WER {100 * scores.mean_wer:.1f}%")
    return scores.mean_wer


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(","), Path(sys.argv[4]))
