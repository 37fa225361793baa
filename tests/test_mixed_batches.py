"""Batches of several languages: outputs in the order of the batch, gradients of one language after the other."""

from __future__ import annotations

from collections import UserDict, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from asr_pathways import PathwayConfig, Pathways
from asr_pathways.errors import PathwaysError
from tests.pruning.conftest import Recogniser

LANGUAGES = ("en", "fr", "de")
SCORES: dict[str, dict[str, Any]] = {
    "magnitude": {},
    "activation": {"score": "activation", "adapt_every": 1},
    "gradient": {"score": "gradient", "adapt_every": 1, "adapt_until": 9},
}


def attached(model: nn.Module, **options: Any) -> Pathways:
    """Pathways of three languages whose masks differ."""
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.6, **options), LANGUAGES)
    for seed, language in enumerate(LANGUAGES):
        generator = torch.Generator().manual_seed(seed)
        pathways.set_mask(
            language, {n: torch.rand(m.shape, generator=generator) < 0.4 for n, m in pathways.mask(language).items()}
        )
    return pathways


def make(**options: Any) -> tuple[Recogniser, Pathways]:
    torch.manual_seed(0)
    model = Recogniser()
    return model, attached(model, **options)


def batch(rows: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 11, (rows, 5), generator=torch.Generator().manual_seed(seed))


def by_language(rows: Sequence[str]) -> dict[str, list[int]]:
    return {language: [i for i, own in enumerate(rows) if own == language] for language in dict.fromkeys(rows)}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def one_after_the_other(
    pathways: Pathways, rows: Sequence[str], loss: Callable[[Tensor], Tensor], tokens: Tensor
) -> None:
    """The reference: each language's rows by themselves, gradients accumulated."""
    for language, places in by_language(rows).items():
        with pathways.use(language):
            loss(tokens[places]).backward()


row_languages = st.lists(st.sampled_from(LANGUAGES), min_size=1, max_size=6)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("gradient", ["dense", "frozen"])
@settings(max_examples=6, deadline=None, derandomize=True)
@given(rows=row_languages, loss_inside=st.booleans())
def test_steps_are_those_of_one_language_after_the_other(
    score: str, gradient: str, rows: list[str], loss_inside: bool
) -> None:
    mixed, pathways = make(gradient=gradient, **SCORES[score])
    plain, separate = make(gradient=gradient, **SCORES[score])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1) for m in (mixed, plain)]
    for seed in range(2):
        tokens = batch(len(rows), seed)
        for optimizer in optimizers:
            optimizer.zero_grad()
        with pathways.use(rows) as run:
            if loss_inside:
                run(lambda x: mixed(x).square().sum(), tokens).backward()
            else:
                run(mixed, tokens).square().sum().backward()
        one_after_the_other(separate, rows, lambda x: plain(x).square().sum(), tokens)
        assert_close(gradients(mixed), gradients(plain))
        for optimizer in optimizers:
            optimizer.step()
        assert [str(event) for event in pathways.step()] == [str(event) for event in separate.step()]
    assert_close(mixed.state_dict(), plain.state_dict())
    found, expected = pathways.state_dict(), separate.state_dict()
    assert found["own_steps"] == {language: 2 * (language in rows) for language in LANGUAGES}
    assert_close(found["statistics"], expected["statistics"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(rows=row_languages, training=st.booleans())
def test_outputs_are_in_the_order_of_the_batch(rows: list[str], training: bool) -> None:
    model, pathways = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(training)
    tokens = batch(len(rows))
    with torch.no_grad(), pathways.use(rows) as run:
        together = run(model, tokens)
        texts = run(lambda x: [str(row.tolist()) for row in x], tokens)
    assert texts == [str(row.tolist()) for row in tokens]
    for row, language in enumerate(rows):
        with torch.no_grad(), pathways.use(language):
            torch.testing.assert_close(together[row], model(tokens[row : row + 1])[0])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("gradient", ["dense", "parp"])
def test_a_shared_mask_takes_all_rows_together(gradient: str) -> None:
    torch.manual_seed(0)
    model = Recogniser()
    pathways = Pathways.attach(model, PathwayConfig(sparsity=0.5, shared=True, gradient=gradient), ["en", "fr"])
    calls: list[int] = []
    with pathways.use(["en", "fr", "en"]) as run:
        run(lambda x: (calls.append(len(x)), model(x).sum())[1], batch(3)).backward()
    assert calls == [3]
    found = gradients(model)
    model.zero_grad()
    with pathways.use("en"):
        model(batch(3)).sum().backward()
    assert_close(found, gradients(model))
    pathways.step()
    assert pathways.state_dict()["own_steps"] == {"shared": 1}


class Noisy(nn.Module):
    """Dropout, batch statistics, and a dict of several things as its result."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 12)
        self.norm = nn.BatchNorm1d(12)
        self.drop = nn.Dropout(0.5)
        self.second = nn.Linear(12, 4)

    def forward(self, x: Tensor, lengths: Tensor, names: list[str], scale: Tensor | None = None) -> dict[str, Any]:
        """(B, 6), (B,), B names -> a dict."""
        assert len(x) == len(lengths) == len(names)
        hidden = self.drop(self.norm(self.first(x)))
        logits = self.second(hidden) * (1 if scale is None else scale)
        return {
            "logits": logits,
            "inner": (hidden, None),
            "lengths": lengths + 1,
            "names": [name.upper() for name in names],
            "loss": logits.sum(),
        }


def test_dropout_buffers_and_results_of_many_kinds() -> None:
    rows = ["fr", "en", "fr", "en", "de", "de", "en"]
    torch.manual_seed(0)
    model, twin = Noisy(), Noisy()
    twin.load_state_dict(model.state_dict())
    pathways, separate = attached(model), attached(twin)
    x, lengths, names = torch.randn(7, 6), torch.arange(7), list("abcdefg")
    scale = torch.full((1, 4), 1.5, requires_grad=True)
    mine = x.clone().requires_grad_()
    torch.manual_seed(5)
    with pathways.use(rows) as run:
        result = run(model, mine, lengths=lengths, names=names, scale=scale)
        (result["logits"].square().sum() + result["inner"][0].sum() + result["loss"]).backward()
    own, own_scale = x.clone().requires_grad_(), scale.detach().clone().requires_grad_()
    logits = torch.zeros(7, 4)
    torch.manual_seed(5)
    for language, places in by_language(rows).items():
        with separate.use(language):
            part = twin(own[places], lengths[places], [names[i] for i in places], own_scale)
            (part["logits"].square().sum() + part["inner"][0].sum() + part["loss"]).backward()
            logits[places] = part["logits"].detach()
    assert torch.equal(result["logits"], logits)
    assert result["names"] == list("ABCDEFG")
    assert torch.equal(result["lengths"], lengths + 1) and result["inner"][1] is None
    assert_close({"x": mine.grad, "scale": scale.grad}, {"x": own.grad, "scale": own_scale.grad})
    assert_close(gradients(model), gradients(twin))
    assert_close(model.state_dict(), twin.state_dict())  # running statistics of the norm among them


@pytest.mark.parametrize("score", ["activation", "fisher"])
def test_padding_of_each_language_is_left_out_of_its_statistics(score: str) -> None:
    rows = ["en", "fr", "fr", "en"]
    valid = torch.arange(6) < torch.tensor([6, 3, 2, 5])[:, None]
    x = torch.randn(4, 6, 4, generator=torch.Generator().manual_seed(0)).masked_fill(~valid[..., None], 9.0)

    def statistics(mixed: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        pathways = attached(model, score=score, adapt_every=2)
        if mixed:
            with pathways.unpadded({"*": valid}), pathways.use(rows) as split:
                split(model, x).square().sum().backward()
        else:
            for language, own in by_language(rows).items():
                with pathways.unpadded({"*": valid[own]}), pathways.use(language):
                    model(x[own]).square().sum().backward()
        pathways.step()
        found: dict[str, Any] = pathways.state_dict()["statistics"]
        return found

    assert_close(statistics(mixed=True), statistics(mixed=False))


def test_an_lstm_and_attention_under_frozen_weights_after_several_backward_passes() -> None:
    rows = ["fr", "en", "fr"]
    mixed, pathways = make(gradient="frozen")
    plain, separate = make(gradient="frozen")
    with pathways.use(rows) as run:
        losses = [run(mixed, batch(3, seed)).square().mean(dim=(1, 2)).sum() for seed in (0, 1)]
        losses[0].backward()
        losses[1].backward()
    for seed in (0, 1):
        one_after_the_other(separate, rows, lambda x: plain(x).square().mean(dim=(1, 2)).sum(), batch(3, seed))
    assert_close(gradients(mixed), gradients(plain))
    used = {n: pathways.mask("en")[n] | pathways.mask("fr")[n] for n in pathways.names}
    assert all((gradients(mixed)[name][~mask] == 0).all() for name, mask in used.items())


def test_a_model_of_transformers() -> None:
    from tests.integrations.tiny import recogniser

    model = recogniser(num_hidden_layers=1).eval()
    pathways = attached(model)
    x = torch.randn(3, 400)
    with pathways.use(["de", "en", "de"]) as run:
        result = run(model, x, output_hidden_states=True)
    with torch.no_grad(), pathways.use("en"):
        alone = model(x[1:2], output_hidden_states=True)
    assert type(result) is type(alone)
    torch.testing.assert_close(result.logits[1:2], alone.logits)
    torch.testing.assert_close(result.hidden_states[1][1:2], alone.hidden_states[1])


def test_as_many_arguments_as_rows_are_arguments_all_the_same() -> None:
    model, pathways = make()
    tokens = batch(2)
    with torch.no_grad(), pathways.use(["en", "fr"]) as run:
        together = run(lambda x, y, shape: model(x) + model(y).reshape(shape), tokens, y=tokens, shape=(-1, 5, 7))
        assert torch.equal(together, run(lambda x, y: model(x) + model(y), tokens, tokens))


class Two(NamedTuple):
    first: Tensor
    second: Tensor


def test_what_is_split_and_what_is_given_whole() -> None:
    _, pathways = make()
    x = torch.arange(3)
    seen: list[Any] = []
    with torch.no_grad(), pathways.use(["en", "fr", "en"]) as run:
        result = run(
            lambda *args, **kwargs: (seen.append((args, kwargs)), Two(args[0], args[0] * 2))[1],
            x,
            [4, 5, 6],
            defaultdict(list, inside=(x, "text")),
            torch.ones(2),
            pair=Two(x, x),
            size=torch.Size([3, 4, 5]),
        )
    (args, kwargs), _ = seen
    assert args[0].tolist() == [0, 2] and args[1] == [4, 6] and args[3].tolist() == [1, 1]
    assert args[2]["inside"][0].tolist() == [0, 2] and args[2]["inside"][1] == "text"
    assert args[2]["missing"] == []
    assert kwargs["pair"].second.tolist() == [0, 2] and kwargs["size"] == (3, 4, 5)
    assert isinstance(result, Two) and result.second.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.transpose(0, 1), "does not have the rows in front"),
        (lambda x: x[:, : len(x)], "differs in shape between languages"),
        (lambda x: {"loss": 3.0}, r"\['loss'\] is a float, neither a tensor nor a list with one item a row"),
        (lambda x: [row[None].expand(len(x), 5) for row in x], "may be one item a row or tensors of rows"),
        (lambda x: ["text"], "is a str"),
    ],
)
def test_results_that_cannot_be_put_together(function: Callable[[Tensor], Any], message: str) -> None:
    _, pathways = make()
    with pathways.use(["en", "fr", "fr"]) as run, pytest.raises(PathwaysError, match=message):
        run(function, batch(3))


def test_arguments_that_cannot_be_split() -> None:
    model, pathways = make()
    packed = pack_padded_sequence(torch.zeros(3, 5, 2), torch.tensor([5, 4, 2]), batch_first=True)
    with pathways.use(["en", "fr", "fr"]) as run:
        with pytest.raises(PathwaysError, match="no argument has 3 rows"):
            run(model, batch(2))
        with pytest.raises(PathwaysError, match="packed sequence"):
            run(model, packed)
        with pytest.raises(PathwaysError, match="UserDict cannot be split: pass a dict"):
            run(model, batch(3), inside=UserDict(x=batch(3)))


def test_a_backward_pass_after_the_block_is_an_error_and_so_are_calls() -> None:
    model, pathways = make()
    with pathways.use(["en", "fr"]) as run:
        loss = run(model, batch(2)).sum()
    with pytest.raises(PathwaysError, match="after its use"):
        loss.backward()
    with pytest.raises(PathwaysError, match="after its use"):
        run(model, batch(2))
    assert gradients(model) == {}
    with pathways.use(["en", "fr"]) as run:
        loss = run(model, batch(2)).sum()
    with pathways.use(["en", "fr"]), pytest.raises(PathwaysError, match="after its use"):
        loss.backward()  # another block's masks would not do


def test_weights_that_change_before_the_backward_pass_are_noticed() -> None:
    model, pathways = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pathways.use(["en", "fr"]) as run:
        run(model, batch(2)).sum().backward()
        loss = run(model, batch(2)).sum()
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_misuse_leaves_the_dense_weights_as_they_were() -> None:
    model, pathways = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pathways.use(["en", "fr"]) as run:
        with pytest.raises(PathwaysError, match="inside a function that rows"):
            run(lambda _: run(model, batch(2)), batch(2))
        with pytest.raises(KeyboardInterrupt):
            run(interrupted, batch(2))
        with pytest.raises(PathwaysError, match=r"use\('en'\) inside use\(\[\.\.\.\]\)"), pathways.use("en"):
            pass
        with pytest.raises(PathwaysError, match="leave that block first"):
            pathways.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for wrong, message in ((["en", "xx"], "unknown language 'xx'"), ([], "the language of each row")):
        with pytest.raises(PathwaysError, match=message), pathways.use(wrong):
            pass
    activation = make(score="activation")[1]
    with (
        activation.use(["en", "fr"]),
        pytest.raises(PathwaysError, match="one language at a time"),
        activation.calibrate("en"),
    ):
        pass


def interrupted(tokens: Tensor) -> Tensor:
    raise KeyboardInterrupt


def test_autocast_and_compiled_models() -> None:
    model, pathways = make()
    compiled = torch.compile(model, backend="eager")
    tokens = batch(3)
    with torch.autocast("cpu", dtype=torch.bfloat16), pathways.use(["en", "fr", "en"]) as run:
        together = run(compiled, tokens)
        together.float().sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16), pathways.use("fr"):
        assert torch.equal(together[1:2], model(tokens[1:2]))
    assert all(value.isfinite().all() for value in gradients(model).values())
