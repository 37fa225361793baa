"""The RNN-T loss (Graves, "Sequence transduction with recurrent neural networks", arXiv 1211.3711).

The lattice is swept one anti-diagonal at a time (all its nodes are independent of each other), and the gradient
with respect to the logits is written down by hand, so that log-softmax is never stored: besides the logits, one
tensor of their size is all the memory that the loss needs. Runs wherever torch runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from asr_pathways.errors import PathwaysError

_LOG_ZERO = -1e30
"""Stands for log 0: finite, so that no difference of two of them is NaN."""


def rnnt_loss(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = -1,
    ids: Sequence[str] | None = None,
) -> Tensor:
    """Negative log-likelihood of each target sequence, summed over all its alignments.

    Args:
        logits: unnormalised scores from the joiner (B, T, U + 1, V), floating point.
        targets: symbol indices (B, U), blank not among them within ``target_lengths``.
        logit_lengths: valid encoder frames of each utterance (B,), from 1 to T.
        target_lengths: valid symbols of each utterance (B,), from 0 to U.
        blank: index of the blank symbol; negative counts from the end.
        ids: names of the utterances, for messages.

    Returns:
        Costs (B,), in nats, in float32 (float64 for float64 logits).

    Raises:
        PathwaysError: if shapes or lengths do not fit together; the message names the utterance.
    """
    _check(logits, targets, logit_lengths, target_lengths, ids)
    blank_index = blank % logits.shape[-1]
    costs: Tensor = _RnntLoss.apply(logits, targets, logit_lengths, target_lengths, blank_index)  # type: ignore[no-untyped-call]
    return costs


def _check(
    logits: Tensor,
    targets: Tensor,
    logit_lengths: Tensor,
    target_lengths: Tensor,
    ids: Sequence[str] | None,
) -> None:
    if logits.dim() != 4 or targets.dim() != 2:
        raise PathwaysError(
            f"RNN-T loss: logits must be (B, T, U + 1, V) and targets (B, U), "
            f"not {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    batch, frames, nodes, symbols = logits.shape
    if targets.shape != (batch, nodes - 1):
        raise PathwaysError(
            f"RNN-T loss: logits {tuple(logits.shape)} ask for targets ({batch}, {nodes - 1}), "
            f"not {tuple(targets.shape)}"
        )
    for what, lengths, low, high in (
        ("encoder frames", logit_lengths, 1, frames),
        ("target symbols", target_lengths, 0, nodes - 1),
    ):
        if lengths.shape != (batch,):
            raise PathwaysError(f"RNN-T loss: {batch} numbers of {what} expected, not {tuple(lengths.shape)}")
        wrong = ((lengths < low) | (lengths > high)).nonzero().flatten().tolist()
        if wrong:
            row = wrong[0]
            name = f"utterance {ids[row]}" if ids is not None else f"utterance {row} of the batch"
            length = int(lengths[row])
            bound = f"at least {low} needed" if length < low else f"at most {high} fit"
            raise PathwaysError(f"RNN-T loss: {name}: {length} {what}, {bound}")
    if targets.numel() and (int(targets.min()) < 0 or int(targets.max()) >= symbols):
        raise PathwaysError(f"RNN-T loss: target symbols must lie in 0..{symbols - 1}")


def _skew(values: Tensor) -> Tensor:
    """(B, T, U1) -> (T + U1 - 1, B, U1): entry [n, b, u] is values[b, n - u, u], log zero where it has none."""
    batch, frames, nodes = values.shape
    diagonals = frames + nodes - 1
    padded = torch.cat((values, values.new_full((batch, nodes, nodes), _LOG_ZERO)), dim=1)
    rows = torch.arange(diagonals, device=values.device)[:, None]
    columns = torch.arange(nodes, device=values.device)[None, :]
    source = (rows - columns) % (frames + nodes)  # negative frames wrap round into the padding
    return padded[:, source, columns].permute(1, 0, 2).contiguous()


def _unskew(values: Tensor, frames: int) -> Tensor:
    """The inverse of :func:`_skew`: (N, B, U1) -> (B, T, U1)."""
    nodes = values.shape[2]
    rows = torch.arange(frames, device=values.device)[:, None]
    columns = torch.arange(nodes, device=values.device)[None, :]
    return values.permute(1, 0, 2)[:, rows + columns, columns]


class _RnntLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, logit_lengths: Tensor, target_lengths: Tensor, blank: int
    ) -> Tensor:
        batch, frames, nodes, _ = logits.shape
        device = logits.device
        scores = logits if logits.dtype == torch.float64 else logits.float()
        normaliser = scores.logsumexp(dim=-1)
        time = torch.arange(frames, device=device)[None, :, None]
        symbol = torch.arange(nodes, device=device)[None, None, :]
        last_frame = logit_lengths.to(device)[:, None, None]
        last_symbol = target_lengths.to(device)[:, None, None]
        inside = (time < last_frame) & (symbol <= last_symbol)
        step_blank = (scores[..., blank] - normaliser).masked_fill(~inside, _LOG_ZERO)
        labels = torch.nn.functional.pad(targets.to(device), (0, 1))
        label_index = labels[:, None, :, None].expand(batch, frames, nodes, 1)
        step_label = scores.gather(-1, label_index).squeeze(-1) - normaliser
        step_label = step_label.masked_fill(~(inside & (symbol < last_symbol)), _LOG_ZERO)

        blank_diagonals, label_diagonals = _skew(step_blank), _skew(step_label)
        diagonals = frames + nodes - 1
        rows = torch.arange(batch, device=device)
        final = logit_lengths.to(device) + target_lengths.to(device)

        # alpha[n, b, u]: log-probability of reaching node (t = n - u, u). One diagonal more than there are frames,
        # because the last blank leads to the node (T, U), where every alignment ends.
        alpha = scores.new_full((diagonals + 1, batch, nodes), _LOG_ZERO)
        alpha[0, :, 0] = 0.0
        for n in range(diagonals):
            reached = alpha[n] + blank_diagonals[n]
            torch.logaddexp(reached[:, 1:], alpha[n, :, :-1] + label_diagonals[n, :, :-1], out=alpha[n + 1, :, 1:])
            alpha[n + 1, :, 0] = reached[:, 0]
        total = alpha[final, rows, target_lengths.to(device)]

        if ctx.needs_input_grad[0]:
            # beta[n, b, u]: log-probability of the rest of the way from node (t = n - u, u) to the end.
            beta = scores.new_full((diagonals + 1, batch, nodes), _LOG_ZERO)
            beta[final, rows, target_lengths.to(device)] = 0.0
            for n in range(diagonals - 1, -1, -1):
                onward = beta[n + 1] + blank_diagonals[n]
                onward[:, :-1] = torch.logaddexp(onward[:, :-1], beta[n + 1, :, 1:] + label_diagonals[n, :, :-1])
                # The end node of an utterance keeps its zero: no arc leaves it, so ``onward`` is log zero there.
                torch.maximum(beta[n], onward, out=beta[n])
            occupancy = _unskew(alpha[:-1] + beta[:-1], frames) - total[:, None, None]
            by_blank = _unskew(alpha[:-1] + blank_diagonals + beta[1:], frames) - total[:, None, None]
            beta_label = torch.nn.functional.pad(beta[1:, :, 1:], (0, 1), value=_LOG_ZERO)
            by_label = _unskew(alpha[:-1] + label_diagonals + beta_label, frames) - total[:, None, None]
            # The clamp keeps exp out of the range where it underflows: there it is ten times slower.
            gradient = (scores - normaliser[..., None]).clamp_(min=-80.0).exp_()
            gradient *= occupancy.exp().masked_fill(~inside, 0.0)[..., None]
            gradient[..., blank] -= by_blank.exp()
            gradient.scatter_add_(-1, label_index, -by_label.exp()[..., None])
            ctx.save_for_backward(gradient.to(logits.dtype))
        return -total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        scale = grad_outputs[0].to(gradient.dtype)[:, None, None, None]
        return gradient * scale, None, None, None, None
