"""Real speech in five languages: the voice prompts of Debian's ``asterisk-core-sounds`` packages.

One professional voice per language, recorded at 16 kHz (G.722), with transcripts. Read prompts are short
("please enter your password followed by the pound key") and share words, so the split ensures that no prompt name
and no text is in two splits of one language.
"""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr_pathways.data.audio import SAMPLE_RATE
from asr_pathways.data.corpora.debian import unpacked
from asr_pathways.data.corpus import About, build_corpus, why_unfit
from asr_pathways.data.normalize import fold_accents, normalize
from asr_pathways.data.progress import track
from asr_pathways.data.splits import split_of
from asr_pathways.errors import PathwaysError

LANGUAGES = ("en", "es", "fr", "it", "ru")
MAX_SECONDS = 20.0

_NO_SPEECH = re.compile(r"^(silence/|beep|beeperr$|tt-monkeys|ascending-2tone|descending-2tone)")
# Accented letters that the Italian transcript lost to a question mark.
_DAMAGED = {"it": {"sar?": "sarà", "pu?": "può", "pi?": "più", "cos?": "così"}}
# Accents that the Spanish and French transcripts leave out, here and there, in words that have no other spelling.
_ACCENTED = {
    "es": "atrás búsqueda buzón código comenzará comprendí contraseña contraseñas décimo después dieciséis dólar "
    "duodécimo están estándar estén guiaré intentaré inválida inválido japón líder línea mañana maría más miércoles "
    "millón mínimos numérico número próximo rápidamente sábado séptimo será telefónico teléfono trigésimo último "
    "undécimo única unirá unirán útil vacías válido veintidós veintiséis veintitrés vigésimo",
    "fr": "abrégée désolé enlève été était êtes être n'êtes numéro premières présentement problèmes québec "
    "réessayer téléphone téléphoner",
}
_RESPELLED = {language: {fold_accents(word): word for word in words.split()} for language, words in _ACCENTED.items()}
_VOICES = {
    "en": "Allison Smith",
    "es": "Allison Smith",
    "fr": "June Wallack",
    "it": "Carlo Flora",
    "ru": "Maxim Topal, ivrvoice.ru",
}


@dataclass(frozen=True)
class Prompt:
    """One prompt: its name (``digits/7``), its normalised text, its sound file."""

    name: str
    text: str
    sound: Path


def prepare_prompts(out: Path, source: Path | None, languages: Sequence[str]) -> dict[str, Counter[str]]:
    """Makes a data folder from the Asterisk prompts.

    Args:
        out: the data folder to make.
        source: a tree of the unpacked packages, or a folder of their ``.deb`` files; None fetches them.
        languages: which of :data:`LANGUAGES`.

    Returns:
        For each language, how many prompts were left out and why.

    Raises:
        PathwaysError: if a language is unknown, packages cannot be fetched, or a language has no prompts.
    """
    for language in languages:
        if language not in LANGUAGES:
            raise PathwaysError(f"no prompts in {language!r}: choose among {', '.join(LANGUAGES)}")
    packages = [f"asterisk-core-sounds-{name}" for x in languages for name in (x, f"{x}-g722")]
    dropped: dict[str, Counter[str]] = {}
    with unpacked(packages, source) as root, build_corpus(out, [_about(x) for x in languages]) as corpus:
        for language in languages:
            voice, prompts, dropped[language] = _read_prompts(root, language)
            splits = _split({prompt.name: prompt.text for prompt in prompts})
            kept = 0
            for prompt in track(prompts, f"prompts {language}"):
                samples = decode_g722(prompt.sound.read_bytes())
                if reason := why_unfit(prompt.text, len(samples) / SAMPLE_RATE, MAX_SECONDS):
                    dropped[language][reason] += 1
                else:
                    name = f"{language}-{prompt.name.replace('/', '_')}"
                    corpus.add(splits[prompt.name], name, language, prompt.text, samples, voice)
                    kept += 1
            if not kept:
                raise PathwaysError(f"{root}: no {language!r} prompts with text and sound in it")
    return dropped


def decode_g722(data: bytes) -> NDArray[np.int16]:
    """Samples (N,) at 16 kHz of raw G.722 data at 64 kbit/s (ITU-T G.722), two per byte."""
    from G722 import G722

    if not data:
        return np.zeros(0, dtype=np.int16)
    return np.asarray(G722(SAMPLE_RATE, 64_000).decode(data), dtype=np.int16)


def _read_prompts(root: Path, language: str) -> tuple[str, list[Prompt], Counter[str]]:
    voices = sorted((root / "usr/share/asterisk/sounds").glob(f"{language}_*"))
    if not voices:
        raise PathwaysError(
            f"{root}: no sounds in usr/share/asterisk/sounds/{language}_*: unpack the packages "
            f"asterisk-core-sounds-{language} and asterisk-core-sounds-{language}-g722 there with `dpkg-deb -x`"
        )
    prompts: dict[str, Prompt] = {}
    dropped = Counter[str]()
    for name, line in _transcript(root, language):
        text = _respell(normalize(_repair(line.removeprefix(f"{name}:"), language), language), language)
        sound = voices[0] / f"{name}.g722"
        if _NO_SPEECH.match(name) or not text:
            dropped["no words"] += 1
        elif name in prompts:
            dropped["a second text for the same name"] += 1
        elif not sound.is_file():
            dropped["no sound file"] += 1
        else:
            prompts[name] = Prompt(name, text, sound)
    return voices[0].name, list(prompts.values()), dropped


def _transcript(root: Path, language: str) -> Iterator[tuple[str, str]]:
    path = root / f"usr/share/doc/asterisk-core-sounds-{language}/core-sounds-{language}.txt.gz"
    try:
        data = gzip.decompress(path.read_bytes()) if path.exists() else path.with_suffix("").read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise PathwaysError(f"{path}: cannot read the transcripts: {error}") from None
    for line in lines:
        name, colon, text = line.partition(":")
        if colon and not line.startswith(";"):
            yield name.strip(), text.strip()


def _repair(text: str, language: str) -> str:
    words = _DAMAGED.get(language, {})
    return " ".join(words.get(word, word) for word in text.split())


def _respell(text: str, language: str) -> str:
    words = _RESPELLED.get(language, {})
    text = " ".join(words.get(word, word) for word in text.split())
    return re.sub(r"([csx])ion\b", r"\1ión", text) if language == "es" else text


def _split(texts: Mapping[str, str]) -> dict[str, str]:
    """The split of each prompt name: by the hash of the smallest name that has the same text."""
    smallest: dict[str, str] = {}
    for name, text in texts.items():
        smallest[text] = min(name, smallest.get(text, name))
    return {name: split_of(smallest[text]) for name, text in texts.items()}


def _about(language: str) -> About:
    return {
        "name": f"asterisk-core-sounds-{language}",
        "licence": "CC-BY-3.0" if language == "ru" else "CC-BY-SA-3.0",
        "attribution": f"Asterisk core sounds ({language}), voice: {_VOICES[language]}; Debian package "
        f"asterisk-core-sounds-{language}; financial contributions by Digium, Inc.",
    }
