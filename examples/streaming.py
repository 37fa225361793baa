"""Two callers, two languages, one model: recordings as a telephone line would deliver them.

python examples/streaming.py dynamic.asrp en:one.wav fr:two.wav
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import soundfile

from asr_pathways import Recognizer


def main(bundle: Path, calls: Sequence[tuple[str, Path]], chunk: float = 0.32) -> list[str]:
    recognizer = Recognizer(bundle, threads=1)
    streams = [recognizer.stream(language) for language, _ in calls]
    recordings = [soundfile.read(path, dtype="float32") for _, path in calls]
    for index in range(round(max(len(samples) / rate for samples, rate in recordings) / chunk) + 1):
        for stream, (samples, rate) in zip(streams, recordings, strict=True):
            step = round(chunk * rate)
            stream.accept(samples[index * step : (index + 1) * step], rate)
        recognizer.decode(streams)  # those of one language go through the model side by side
        for stream in streams:
            print(f"{stream.language}: {stream.partial().text}")
    return [stream.final().text for stream in streams]


if __name__ == "__main__":
    pairs = [argument.split(":", 1) for argument in sys.argv[2:]]
    print(main(Path(sys.argv[1]), [(language, Path(file)) for language, file in pairs]))
