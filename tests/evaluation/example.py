"""A whole report with made-up numbers, for tests and for looking at."""

from __future__ import annotations

import random

from asr_pathways.evaluation.report import (
    Curve,
    LayerDensity,
    Origin,
    Overlap,
    Pair,
    Report,
    Sample,
    Sizes,
    System,
)
from asr_pathways.evaluation.wer import Utterance, compare, score

TEXTS = {
    "en": "please enter your password followed by the pound key",
    "es": "por favor introduzca su contraseña seguida de la tecla almohadilla",
    "fr": "veuillez composer votre mot de passe suivi de la touche dièse",
    "it": "inserisci la tua password seguita dal tasto cancelletto",
    "ru": "пожалуйста введите ваш пароль а затем нажмите решётку",
}
RATES = {"dense": 0.36, "one-shot": 0.78, "fixed pathways": 0.43, "dynamic pathways": 0.41}


def garbled(text: str, rate: float, noise: random.Random) -> str:
    words = []
    for word in text.split():
        if noise.random() >= rate:
            words.append(word)
        elif noise.random() < 0.5:
            words.append(word[1:] + "o")
        elif noise.random() < 0.3:
            words += [word, "la"]
    return " ".join(words)


def decoded(rate: float, size: int, seed: int) -> list[Utterance]:
    texts, noise = random.Random(0), random.Random(seed)
    utterances = []
    for place, (language, text) in enumerate(TEXTS.items()):
        words = text.split()
        for index in range(size):
            reference = " ".join(texts.choices(words, k=texts.randint(2, 9)))
            guess = garbled(reference, rate + 0.04 * (place - 2), noise)
            utterances.append(Utterance(f"{language}/{index}", language, reference, guess))
    return utterances


def example_report(size: int = 60, replications: int = 1000) -> Report:
    noise = random.Random(1)
    decodings = {name: decoded(rate, size, seed) for seed, (name, rate) in enumerate(RATES.items())}
    scores = {name: score(utterances, replications=replications) for name, utterances in decodings.items()}
    languages = list(TEXTS)
    layers = [
        f"{part}.weight"
        for layer in range(6)
        for part in (
            f"encoder.layers.{layer}.attention.query",
            f"encoder.layers.{layer}.attention.output",
            f"encoder.layers.{layer}.feed_forward.0",
            f"encoder.layers.{layer}.feed_forward.3",
        )
    ] + ["predictor.lstm.weight_ih_l0", "predictor.lstm.weight_hh_l0"]
    steps = list(range(0, 1201, 150))
    curve = {
        name: [start + (0.95 - start) * 0.5 ** (step / 150) + noise.uniform(-0.01, 0.01) for step in steps]
        for name, start in (("fixed pathways", 0.42), ("dynamic pathways", 0.40))
    }
    pairs = {frozenset((a, b)): 1.0 if a == b else noise.uniform(0.55, 0.8) for a in languages for b in languages}
    iou = [[pairs[frozenset((a, b))] for a in languages] for b in languages]
    return Report(
        title="Five sparse pathways in one speech recogniser",
        systems=[
            System("dense", scores["dense"], None, "the model before pruning"),
            System("one-shot", scores["one-shot"], 0.7, "pruned by magnitude, no training"),
            System("fixed pathways", scores["fixed pathways"], 0.7, "trained, masks as one-shot left them"),
            System("dynamic pathways", scores["dynamic pathways"], 0.7, "trained, masks adapt every 50 steps"),
        ],
        main="dynamic pathways",
        pairs=[
            Pair(
                "dynamic pathways",
                other,
                compare(decodings["dynamic pathways"], decodings[other], replications=replications),
            )
            for other in ("one-shot", "fixed pathways")
        ],
        curves=[
            Curve("dense", [0], [0.355]),
            *(Curve(name, steps, rates) for name, rates in curve.items()),
        ],
        overlaps=[
            Overlap("Before training", languages, [[1.0] * 5] * 5, 0.3),
            Overlap("After training", languages, iou, 0.412),
        ],
        layers=LayerDensity(
            languages,
            layers,
            [[0.3 + noise.uniform(-0.1, 0.2) for _ in languages] for _ in layers],
            [0.3 + noise.uniform(0.1, 0.3) for _ in layers],
        ),
        sizes=Sizes(8_120_000, 1_180_000, 2_030_000, 1_890_000, dict.fromkeys(languages, 567_000), 778_000),
        samples=[
            Sample(f"{language}/vm-password", language, text, {n: garbled(text, r, noise) for n, r in RATES.items()})
            for language, text in TEXTS.items()
        ],
        origin=Origin(
            "asr-pathways prune models/tiny --data prompts --method dynamic --sparsity 0.7 --out run",
            754.2,
            {"Steps": "1,200", "Processor": "2 cores", "Score": "activation", "Seed": "0"},
        ),
        attribution=["Recordings: Asterisk core sounds, CC BY-SA 3.0."],
    )
