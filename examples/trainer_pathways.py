"""Pathways in Hugging Face's Trainer: swap in your model, and your data with a `language` on each item.

python examples/trainer_pathways.py runs/trainer-pathways
"""

import sys
from operator import itemgetter
from pathlib import Path

import torch
from transformers import TrainingArguments, Wav2Vec2Config, Wav2Vec2ForCTC

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.integrations.batches import LanguageBatches
from asr_pathways.integrations.transformers import PathwaysTrainer


def speech(size: int) -> list[dict[str, object]]:
    """Noise for speech: items of {input_values, labels, language}."""
    return [
        {"input_values": torch.randn(6400), "labels": torch.randint(1, 12, (3,)), "language": language}
        for language in ("en", "fr")
        for _ in range(size)
    ]


def main(out: Path, steps: int = 20) -> dict[str, float]:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=12, conv_dim=(16,) * 7, mask_time_prob=0.0, **sizes))
    config = PathwayConfig(sparsity=0.7, score="activation", adapt_every=5, exclude=("lm_head",))
    pathways = Pathways.attach(model, config, ["en", "fr"])
    arguments = TrainingArguments(
        str(out),
        max_steps=steps,
        save_steps=steps // 2,
        gradient_accumulation_steps=2,  # micro-batches of any languages
        per_device_train_batch_size=1,  # of LanguageBatches, each of which is a batch already
        per_device_eval_batch_size=1,
        remove_unused_columns=False,  # or the Trainer drops the language
        prediction_loss_only=True,
        report_to="none",
    )
    trainer = PathwaysTrainer(
        model,
        arguments,
        pathways=pathways,
        train_dataset=LanguageBatches(speech(16), 4),
        eval_dataset=LanguageBatches(speech(4), 4),
        data_collator=itemgetter(0),
    )
    trainer.train()  # goes on from a checkpoint with resume_from_checkpoint=True
    scores = trainer.evaluate()  # each language in its own sub-network
    trainer.save_model(str(out / "model"))
    pathways.save(out / "pathways")
    print(pathways.summary().union_density, scores)
    return scores


if __name__ == "__main__":
    main(Path(sys.argv[1]))
