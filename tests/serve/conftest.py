"""A server in a thread of the tests' process, on a port of its own."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_pathways.bundle.bundle import write_bundle
from asr_pathways.data.audio import Samples
from asr_pathways.data.tokenizer import Tokenizer
from asr_pathways.runtime.recognizer import Recognizer
from asr_pathways.serve.run import listen, make_server
from asr_pathways.serve.service import Options, Service
from tests.runtime.test_streaming import pruned, utterance

SPOKEN = utterance("en", 3, 18)


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    service: Service
    port: int
    wyoming_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running(model: Path, **options: object) -> Iterator[Running]:
    service = Service(model, Options(**options))  # type: ignore[arg-type]
    with listen("127.0.0.1", 0) as listener, listen("127.0.0.1", 0) as second:
        server = make_server(service, "127.0.0.1", second)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield Running(service, listener.getsockname()[1], second.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def two_file(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of English and French, whose random weights write different words."""
    path = tmp_path_factory.mktemp("serve") / "two.asrp"
    write_bundle(pruned(tokenizer), path, "float32")
    return path


@pytest.fixture(scope="session")
def server(two_file: Path) -> Iterator[Running]:
    """One for tests that leave nothing behind."""
    with running(two_file, max_upload=1_000_000) as started:
        yield started


@pytest.fixture(scope="session")
def recognizer(two_file: Path) -> Recognizer:
    return Recognizer(two_file)


def wav(samples: Samples = SPOKEN, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def as_read(samples: Samples = SPOKEN) -> Samples:
    """What is left of samples in 16 bits."""
    return (np.round(samples * 32768) / 32768).astype(np.float32)
