"""The few functions of eSpeak NG's library that make speech, through ctypes and the ``espeakng_loader`` wheel."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_pathways.errors import PathwaysError

_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_POSITION_CHARACTER = 1
_PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}  # words a minute; 0-100, 50 is the voice's default; likewise


class Espeak:
    """One synthesiser. Its speech depends slightly on what it synthesised before in the same process."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise PathwaysError("speech synthesis needs eSpeak NG: pip install 'asr-pathways[synth]'") from None
        library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        self.rate = int(
            library.espeak_Initialize(_SYNCHRONOUS, 0, espeakng_loader.get_data_path().encode(), _DONT_EXIT)
        )
        if self.rate <= 0:
            raise PathwaysError("eSpeak NG does not start: reinstall the package espeakng-loader")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # else breathy voices seed their noise by the clock
        self._library = library
        self._chunks: list[NDArray[np.int16]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._receive)
        library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, **parameters: int) -> NDArray[np.int16]:
        """Samples (N,) at ``self.rate`` Hz of ``text`` in ``voice`` (``en-us+f3``).

        Args:
            text: to synthesise.
            voice: a language, or a language and a variant.
            parameters: ``rate`` (words a minute), ``pitch`` and ``range`` (0 to 100).

        Raises:
            PathwaysError: if eSpeak NG has no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise PathwaysError(f"eSpeak NG has no voice {voice!r}")
        for name, value in parameters.items():
            self._library.espeak_SetParameter(_PARAMETERS[name], value, 0)
        self._chunks.clear()
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate([np.zeros(0, np.int16), *self._chunks])

    def _receive(self, samples: Any, count: int, _events: Any) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0
