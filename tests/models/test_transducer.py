from __future__ import annotations

import pytest
import torch
from torch import Tensor

from asr_pathways.config import parse_config
from asr_pathways.data.batches import Batch
from asr_pathways.errors import PathwaysError
from asr_pathways.models.presets import PRESETS, Preset, preset
from asr_pathways.models.transducer import MAX_SYMBOLS_PER_FRAME, GreedySearch, Transducer, TransducerConfig
from tests.conftest import PIECES, tiny_config


@pytest.fixture
def model() -> Transducer:
    """Random weights, with a say for blank that makes greedy search emit some symbols in some frames."""
    torch.manual_seed(5)
    model = Transducer(tiny_config()).eval()
    with torch.no_grad():
        model.joiner.output.weight.mul_(8)
        model.joiner.encoding.weight.mul_(3)
        model.joiner.output.bias[-1] += 4.0
    return model


def batch_of(frames: list[int], pieces: list[int], seed: int = 0, language: str = "en") -> Batch:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(frames), max(frames), 80, generator=generator)
    targets = torch.randint(PIECES, (len(pieces), max(pieces)), generator=generator)
    for row, (length, count) in enumerate(zip(frames, pieces, strict=True)):
        features[row, length:] = 0
        targets[row, count:] = 0
    ids = [f"utterance-{row}" for row in range(len(frames))]
    return Batch(language, ids, [""] * len(ids), features, torch.tensor(frames), targets, torch.tensor(pieces))


FRAMES = [150, 97, 60, 33, 4, 3]


def features_and_lengths() -> tuple[Tensor, Tensor]:
    batch = batch_of(FRAMES, [1] * len(FRAMES))
    return batch.features, batch.feature_lengths


def by_the_book(model: Transducer, features: Tensor) -> tuple[list[int], list[int]]:
    """Greedy search of one utterance (T, F) as Graves describes it: everything said so far is run again."""
    encodings, _ = model.encoder(model.normalize(features[None]), torch.tensor([len(features)]))
    symbols: list[int] = []
    frames: list[int] = []
    for t in range(encodings.shape[1]):
        for _ in range(MAX_SYMBOLS_PER_FRAME):
            predictions, _ = model.predictor(torch.tensor([[model.blank, *symbols]]))
            best = int(model.joiner(encodings[:, t : t + 1], predictions[:, -1:])[0, 0, 0].argmax())
            if best == model.blank:
                break
            symbols.append(best)
            frames.append(t)
    return symbols, frames


@torch.inference_mode()
def test_greedy_search_of_a_batch_is_that_of_each_utterance(model: Transducer) -> None:
    features, lengths = features_and_lengths()
    found = model.decode(features, lengths)
    for row, length in enumerate(FRAMES):
        expected, _ = by_the_book(model, features[row, :length])
        assert found[row] == expected
        assert model.decode(features[row : row + 1, :length], lengths[row : row + 1]) == [expected]
    assert len(found[0]) > 5  # it does say something, not the same all over, and not in every frame
    assert len(set(found[0])) > 2
    assert found[-1] == []  # no whole encoder frame


@torch.inference_mode()
@pytest.mark.parametrize("chunk", [1, 7, 16, 40])
def test_greedy_search_of_a_stream_is_that_of_the_whole(model: Transducer, chunk: int) -> None:
    features, lengths = features_and_lengths()
    features, lengths = features[:2, :97], lengths[:2].clamp(max=97)
    whole = model.decode(features, lengths)
    search = GreedySearch(model, 2)
    state = model.encoder.initial_state(2, features)
    normalized = model.normalize(features)
    for start in range(0, 97, chunk):
        search.accept(model.encoder.stream(normalized[:, start : start + chunk], state))
    search.accept(model.encoder.stream(normalized[:, :0], state, final=True))
    assert search.symbols == whole
    for row in range(2):
        assert (search.symbols[row], search.frames[row]) == by_the_book(model, features[row])


@torch.inference_mode()
def test_a_frame_gives_a_bounded_number_of_symbols(model: Transducer) -> None:
    model.joiner.output.bias[-1] = -1e4  # never blank
    search = GreedySearch(model, 2)
    encodings, _ = model.encoder(torch.randn(2, 20, 80), torch.tensor([20, 12]))
    search.accept(encodings, [5, 3])
    assert [len(symbols) for symbols in search.symbols] == [5 * MAX_SYMBOLS_PER_FRAME, 3 * MAX_SYMBOLS_PER_FRAME]
    assert search.frames[1] == [frame for frame in range(3) for _ in range(MAX_SYMBOLS_PER_FRAME)]


def test_loss_falls_when_two_utterances_are_learnt_by_heart() -> None:
    torch.manual_seed(0)
    model = Transducer(tiny_config(dropout=0.0))
    batch = batch_of([32, 24], [4, 3])
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
    found = model.eval().decode(batch.features, batch.feature_lengths)
    assert found == [batch.targets[0].tolist(), batch.targets[1, :3].tolist()]


def test_loss_does_not_depend_on_padding_and_is_a_mean_over_word_pieces(model: Transducer) -> None:
    batch = batch_of([80, 41], [5, 2])
    together = model.loss(batch)
    alone = [
        model.loss(
            Batch(
                "en",
                [batch.ids[row]],
                [""],
                batch.features[row : row + 1, :frames],
                torch.tensor([frames]),
                batch.targets[row : row + 1, :pieces],
                torch.tensor([pieces]),
            )
        )
        * pieces
        for row, (frames, pieces) in enumerate([(80, 5), (41, 2)])
    ]
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 7, rtol=1e-5, atol=1e-5)


def test_every_weight_learns() -> None:
    torch.manual_seed(0)
    model = Transducer(tiny_config())
    model.loss(batch_of([64, 48], [4, 3])).backward()
    untouched = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    assert untouched == []


def test_ctc_counts_by_its_weight(model: Transducer) -> None:
    batch = batch_of([64, 48], [4, 3])
    plain = Transducer(tiny_config(ctc_weight=0.0)).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("ctc_output")})
    rnnt = plain.loss(batch)
    losses = []
    for weight in (0.3, 0.6):
        other = Transducer(tiny_config(ctc_weight=weight)).eval()
        other.load_state_dict(model.state_dict())
        losses.append(other.loss(batch))
    assert losses[0] > rnnt
    torch.testing.assert_close(losses[1] - rnnt, 2 * (losses[0] - rnnt))


def test_a_text_longer_than_its_speech_still_has_a_finite_loss(model: Transducer) -> None:
    loss = model.loss(batch_of([80, 12], [5, 9]))  # 9 pieces in 3 encoder frames
    assert torch.isfinite(loss)


@pytest.mark.parametrize("frames", [[80, 3], [3, 2]])
def test_an_utterance_without_an_encoder_frame_is_named(model: Transducer, frames: list[int]) -> None:
    with pytest.raises(PathwaysError, match=rf"utterance-{frames.index(3)}: too short for one frame of the model"):
        model.loss(batch_of(frames, [2, 1]))


def test_features_are_normalised_by_the_statistics() -> None:
    model = Transducer(tiny_config())
    features = 3 + 2 * torch.randn(1, 4000, 80, generator=torch.Generator().manual_seed(0))
    model.set_feature_statistics(features[0].mean(dim=0), features[0].std(dim=0))
    normal = model.normalize(features)[0]
    torch.testing.assert_close(normal.mean(dim=0), torch.zeros(80), rtol=0, atol=1e-4)
    torch.testing.assert_close(normal.std(dim=0), torch.ones(80), rtol=0, atol=1e-4)
    model.set_feature_statistics(torch.zeros(80), torch.zeros(80))  # a silent bin
    assert torch.isfinite(model.normalize(features)).all()
    assert {"feature_mean", "feature_scale"} <= model.state_dict().keys()


def test_the_language_changes_nothing(model: Transducer) -> None:
    assert torch.equal(model.loss(batch_of([40], [3])), model.loss(batch_of([40], [3], language="xx")))


def test_a_config_may_still_have_the_option_that_is_gone_if_it_is_empty() -> None:
    config = {"vocab_size": 12}
    assert parse_config(TransducerConfig, {**config, "language_embedding": []}, "config.json").vocab_size == 12
    with pytest.raises(PathwaysError, match=r"^config\.json: language_embedding: unknown key"):
        parse_config(TransducerConfig, {**config, "language_embedding": ["en"]}, "config.json")


@pytest.mark.parametrize(
    ("name", "pieces", "low", "high"),
    [
        ("micro", 192, 1.2e6, 1.5e6),
        ("tiny", 256, 1.5e6, 2.5e6),
        ("small", 1000, 18e6, 22e6),
        ("base", 4096, 75e6, 100e6),
        ("base", 500, 60e6, 80e6),
    ],
)
def test_presets_have_the_sizes_that_they_promise(name: Preset, pieces: int, low: float, high: float) -> None:
    with torch.device("meta"):
        model = Transducer(preset(name, pieces))
    assert low <= sum(parameter.numel() for parameter in model.parameters()) <= high
    assert model.blank == pieces


def test_base_is_of_the_papers_family() -> None:
    config = preset("base", 4096).encoder
    assert config.layers >= 20
    assert (config.dim, config.ffn_dim) == (512, 2048)
    assert PRESETS == ("micro", "tiny", "small", "base")
