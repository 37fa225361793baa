"""Pathways of a CTC model from the hub in a training loop of your own: transformers, torch, and three lines of ours.

python examples/ctc_pathways.py MODEL data/prompts en,fr

MODEL: a CTC checkpoint with its tokenizer, one vocabulary for all languages.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.data.batches import read_cut
from asr_pathways.data.corpus import load_cuts


def main(name: str, data: Path, languages: Sequence[str], epochs: int = 5) -> dict[str, str]:
    model = AutoModelForCTC.from_pretrained(name)
    extractor, tokenizer = AutoFeatureExtractor.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    config = PathwayConfig(sparsity=0.7, score="activation", adapt_every=50, exclude=("lm_head",))
    pathways = Pathways.attach(model, config, languages)
    model.train()  # from_pretrained gives it in eval mode
    for cut in [*load_cuts(data, "train", languages)] * epochs:
        inputs = extractor(read_cut(cut), sampling_rate=16_000, return_tensors="pt")
        labels = torch.tensor([tokenizer(cut.supervisions[0].text).input_ids])
        with pathways.use(cut.supervisions[0].language):  # forward and backward of one language's sub-network
            model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        pathways.step(optimizer)
    heard = {}
    model.eval()
    for cut in load_cuts(data, "test", languages):
        inputs = extractor(read_cut(cut), sampling_rate=16_000, return_tensors="pt")
        with pathways.use(cut.supervisions[0].language), torch.no_grad():
            heard[cut.id] = tokenizer.decode(model(**inputs).logits[0].argmax(-1))
    print(pathways.summary().union_density, heard)
    return heard


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3].split(","))
