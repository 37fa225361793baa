"""A pruned Whisper from its bundle to words with times, without torch.

python examples/fast_whisper.py fr.asrp fr call.wav
"""

import sys

from asr_pathways import Recognizer

bundle, language, *files = sys.argv[1:]
recognizer = Recognizer(bundle, language)
for file in files:
    for word in recognizer.transcribe(file, words=True).words:
        print(f"{word.start:7.2f} {word.end:7.2f} {word.text}")
