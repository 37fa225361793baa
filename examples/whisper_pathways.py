"""Prunes a Whisper model into one pathway a language, and transcribes a recording with each.

asr-pathways data prompts data/prompts
python examples/whisper_pathways.py openai/whisper-base data/prompts en,fr runs/whisper-pathways
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from asr_pathways import Recognizer
from asr_pathways.bundle.load import load_model
from asr_pathways.training.config import OptimizerConfig, PruneRecipe
from asr_pathways.training.prune import prune


def main(model: Path, data: Path, languages: Sequence[str], out: Path, steps: int = 700) -> dict[str, str]:
    recipe = PruneRecipe(optimizer=OptimizerConfig(steps=steps, peak_lr=1e-4, warmup_steps=steps // 10))
    prune(model, data, out, method="dynamic", sparsity=0.7, languages=languages, recipe=recipe)
    sparse = load_model(out)
    heard = {}
    for language in languages:
        recording = next((data / "audio" / language).glob("*.flac"))
        heard[language] = Recognizer(sparse, language).transcribe(recording).text
        print(language, recording.name, heard[language])
    return heard


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), Path(sys.argv[4]))
