"""The one training loop: dense models and pathways alike, with explicit state and exact resume."""

from __future__ import annotations

import math
import shutil
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from asr_pathways import ranks
from asr_pathways.data.batches import Batch
from asr_pathways.errors import Interrupted, PathwaysError
from asr_pathways.evaluation.wer import Scores
from asr_pathways.files import write_json
from asr_pathways.model_folder.folder import CARD, save_model
from asr_pathways.model_folder.model import AsrModel
from asr_pathways.pruning import MaskEvent
from asr_pathways.training.distillation import Distillation
from asr_pathways.training.inputs import RunData
from asr_pathways.training.interrupt import Interrupts
from asr_pathways.training.optimizer import learning_rate, load_state, make_optimizer
from asr_pathways.training.origin import Origin
from asr_pathways.training.progress import TrainingProgress
from asr_pathways.training.run import Run
from asr_pathways.training.scoring import beside_dense, changes, score_dev, warning
from asr_pathways.training.state import TrainingState, last_checkpoint, read_last_checkpoint, write_checkpoint

LEFT_OUT = "left_out.json"
"""In the folder of a run: the utterances that could not be used, with reasons."""


def train_in(
    run: Run,
    asr: AsrModel,
    data: RunData,
    description: str,
    distillation: Distillation | None = None,
    dense: float | None = None,
) -> TrainingState:
    """Trains ``asr`` in the folder of a run, as `TrainingLoop` does, and saves its start, or resumes it.

    ``dense`` is the WER on dev of the dense model that it is pruned from, if that was scored.
    """
    if not run.resumes:
        run.save_start(asr)
    loop = TrainingLoop(run, asr, data, description, distillation)
    loop.state.dense = dense
    if run.resumes:
        loop.resume()
    return loop.run()


class TrainingLoop:
    """Trains ``asr`` (under its pathways, if it has any) and leaves a MODEL folder in the folder of ``run``.

    That also gets ``checkpoints/`` (the last state, the best models), ``history.json``, ``tensorboard/`` and, if
    there are utterances that cannot be used, ``left_out.json``.

    Args:
        run: its folder, config and processes.
        asr: the model to train, in place.
        data: endless training batches, with a state, and evaluation batches.
        description: what the progress bar calls it.
        distillation: a loss by a teacher.
    """

    def __init__(
        self, run: Run, asr: AsrModel, data: RunData, description: str, distillation: Distillation | None = None
    ) -> None:
        self.asr, self.batches, self.dev = asr, data.batches, data.dev
        self.origin = Origin.of(run, data)
        self.out, self.fabric, self.description, self._solved = run.out, run.fabric, description, run.solved
        self.config = config = run.config
        self.left_out = data.batches.left_out
        self.state = TrainingState()
        added = asr.pathways is not None and asr.pathways.added
        if config.optimizer.steps and not added:  # the input of other languages must stay as it is
            asr.model.train_on_short_windows()
        self.trained = asr.trained()
        self.optimizer = make_optimizer(self.trained, config.optimizer)
        self.model: Any
        self.model, self._fabric_optimizer = self.fabric.setup(asr.model, self.optimizer)
        self.model.mark_forward_method("loss")
        if added:  # using the language moves its tensors to the model's device: before the optimizer has a state
            with asr.inference(asr.languages[-1]):
                pass
        self.distillation = distillation
        self.checkpoint = last_checkpoint(self.out)
        self._interrupts = Interrupts()
        self._batches_a_step = config.accumulate * run.fabric.world_size
        self._resumed = self._saved = False
        self._needed = deque([self._best_folders()], config.keep_last)  # models that each kept checkpoint names

    def resume(self) -> None:
        """Goes on from the last checkpoint in ``out``: the same steps as if the run had never stopped.

        If that is damaged, the one before is used, which is reported.

        Raises:
            PathwaysError: if there is none, or all are broken, or it is of another run.
        """
        with self.fabric.rank_zero_first():  # which puts damaged ones aside
            path, self.state, parts = read_last_checkpoint(self.out)
        if len(set(steps := ranks.gather(self.state.step, self.fabric.device))) > 1:
            raise PathwaysError(f"{self.out}: ranks read checkpoints of different steps ({steps}): start them again")
        try:
            self.asr.model.load_state_dict(parts["model"])
            load_state(self.optimizer, parts["optimizer"])
            if self.asr.pathways is not None:
                self.asr.pathways.load_state_dict(parts["pathways"])
            self.batches.load_state_dict(parts["batches"])
            lines = self.origin.compare(parts.get("origin"), str(self.out))
        except KeyError as error:
            raise PathwaysError(f"{path}: a checkpoint of another run: it has no {error}") from None
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise PathwaysError(f"{path}: a checkpoint of another run: {reason:.200}") from None
        if self.fabric.is_global_zero:
            for line in lines:
                print(line, file=sys.stderr)
        self._resumed = self._saved = True
        self.left_out.read(self.out / LEFT_OUT)
        self.left_out.require_few()
        if (self.out / "history.json").exists():  # which may have evaluations that come again
            self._write_history()

    def run(self) -> TrainingState:
        """Trains to the end (or until nothing gets better) and writes the best model to ``out``.

        An interrupt (Ctrl-C, SIGTERM) ends the running step, then saves a checkpoint and a MODEL folder of the weights
        as they are, which exists until training goes on.

        Raises:
            PathwaysError: if the loss is not finite too often, if interrupted, or if files cannot be written.
        """
        steps = self.config.optimizer.steps
        if not self._resumed:
            torch.manual_seed(self.config.seed)
        elif self.fabric.is_global_zero and self.state.step < steps and not self._stale():
            # The model of an interrupted run must not pass for the result, nor be mixed with it by a kill.
            (self.out / CARD).unlink(missing_ok=True)
        board = self.out / "tensorboard" if self.fabric.is_global_zero else None
        batches = iter(self.batches)
        trained = False
        with (
            nullcontext() if self.distillation is None else self.distillation.watch(self.asr.model),
            TrainingProgress(board, self.description, self.state.step, steps) as progress,
            self._interrupts,
        ):
            try:
                self._train(batches, progress)
                self._write_checkpoint(progress)
                trained = True
                if self.fabric.is_global_zero:
                    self._finish(progress)
                    self._report_left_out(progress)
                self.fabric.barrier()
            except KeyboardInterrupt:
                where = f"interrupted at step {self.state.step} of {steps}"
                if trained or self._interrupts.forced:
                    raise Interrupted(f"{where}; go on from the last checkpoint with --resume") from None
                self._write_checkpoint(progress)
                if self.fabric.is_global_zero:
                    save_model(self.out, self.asr)
                raise Interrupted(f"{where}; go on with --resume, or use {self.out} as it is") from None
            finally:
                batches.close()  # type: ignore[attr-defined]
        return self.state

    def _train(self, batches: Iterator[Batch], progress: TrainingProgress) -> None:
        self._evaluate_if_due(progress)  # if the run was stopped before that
        while self.state.step < self.config.optimizer.steps and not self._stale():
            self._stop_if_interrupted()
            started = time.monotonic()
            self._saved = False
            self._step([next(batches) for _ in range(self.config.accumulate)], progress)
            for reason in self.left_out.new_reasons():
                progress.warning(f"left out: {reason}")
            self._evaluate_if_due(progress)
            self.state.seconds += time.monotonic() - started
            if self.state.step % self.config.checkpoint_every == 0:
                self._write_checkpoint(progress)

    def _stale(self) -> bool:
        patience = self.config.evaluation.patience
        return patience > 0 and self.state.stale >= patience

    def _stop_if_interrupted(self) -> None:
        """Raises KeyboardInterrupt, on all ranks at the same step, if one of them was interrupted."""
        if any(ranks.anywhere([self._interrupts.asked], self.fabric.device)):
            raise KeyboardInterrupt

    def _step(self, batches: Sequence[Batch], progress: TrainingProgress) -> None:
        rate = learning_rate(self.state.step, self.config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        losses = [self._backward(batch.to(self.fabric.device), number) for number, batch in enumerate(batches)]
        sums = torch.tensor([sum(losses), sum(batch.seconds for batch in batches)], device=self.fabric.device)
        loss, seconds = ranks.total(sums).tolist()
        loss /= self._batches_a_step
        norm = float(torch.nn.utils.clip_grad_norm_(self.trained, self.config.optimizer.clip_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._skip(batches, losses, loss, norm, progress)
            return
        self._fabric_optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        scalars = {"train/learning_rate": rate, "train/gradient_norm": norm}
        scalars |= {f"train/{batch.language}": value for batch, value in zip(batches, losses, strict=True)}
        if self.asr.pathways is not None:
            for event in self.asr.pathways.step(self.optimizer):
                self._record(event, progress, scalars)
        progress.step(self.state.step, loss, seconds, scalars)

    def _backward(self, batch: Batch, number: int) -> float:
        """Adds the gradient of the batch with this ``number`` in the step; returns its loss."""
        place = self.fabric.global_rank * self.config.accumulate + number
        # Whichever rank has the batch, dropout is the same.
        torch.manual_seed(zlib.crc32(f"{self.config.seed}/{self.state.step}/{place}".encode()))
        waits = number + 1 < self.config.accumulate  # ranks exchange gradients once a step
        with (
            self.fabric.no_backward_sync(self.model, enabled=waits),
            self.asr.use(batch.language),
            self.asr.unpadded(batch),
        ):
            with self.fabric.autocast():  # which Fabric does for marked methods only where it wraps the model, by DDP
                loss: Tensor = self.model.loss(batch)
                if self.distillation is not None:
                    loss = self.distillation.loss(batch, loss)
            self.fabric.backward(loss / self.config.accumulate)
        return float(loss.detach())

    def _record(self, event: MaskEvent, progress: TrainingProgress, scalars: dict[str, float]) -> None:
        """Into the state and TensorBoard; prunes, of which there are few, are printed, too."""
        self.state.masks.append(asdict(event))
        scalars[f"masks/changed_{event.language or 'shared'}"] = event.changed
        scalars["masks/union_density"] = event.union_density
        if event.mean_iou is not None:
            scalars["masks/mean_iou"] = event.mean_iou
        if event.kind == "prune":
            progress.line(f"step {self.state.step}: {event}")

    def _skip(
        self, batches: Sequence[Batch], losses: Sequence[float], loss: float, norm: float, progress: TrainingProgress
    ) -> None:
        """Leaves the weights as they are; each rank warns of its batches, the first of a bad gradient of good ones."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.asr.pathways is not None:
            self.asr.pathways.drop_step()
        self.state.bad_losses += 1
        bad = [(b, value) for b, value in zip(batches, losses, strict=True) if not math.isfinite(value)]
        batch, value = bad[0] if bad else (batches[0], 0.0)
        problem = f"loss is {value}" if bad else f"the gradient's norm is {norm}"
        where = f"step {self.state.step}: {problem} on a batch of {batch.language} with utterance {batch.ids[0]}"
        if self.state.bad_losses > self.config.max_bad_losses:
            kept = f"the last good checkpoint is {self.checkpoint}" if self.checkpoint.exists() else "nothing was saved"
            raise PathwaysError(
                f"{where}: that is {self.state.bad_losses} such batches, giving up; {kept}; try a lower learning rate"
            )
        if bad or (self.fabric.is_global_zero and math.isfinite(loss)):
            progress.warning(f"{where}: skipped")

    def scores(self, progress: TrainingProgress, shared: bool = True) -> Scores:
        """Scores of the dev batches with the model as it is now; ``shared``: every rank decodes some of them."""

        def watched(batches: Sequence[Batch]) -> Iterator[Batch]:
            total = sum(map(len, batches))
            return progress.track(self._unless_interrupted(batches), "Decoding dev", total, len)

        return score_dev(self.asr, self.dev, self.fabric, shared=shared, watched=watched)

    def _unless_interrupted(self, batches: Sequence[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.fabric.world_size == 1:  # else the others would wait for this one
                self._interrupts.check()
            yield batch

    def _evaluate_if_due(self, progress: TrainingProgress) -> None:
        step, history = self.state.step, self.state.history
        due = (step > 0 and step % self.config.evaluation.every == 0) or step == self.config.optimizer.steps
        if due and self.dev and not (history and history[-1]["step"] == step):
            self._evaluate(progress)

    def _evaluate(self, progress: TrainingProgress) -> None:
        scores = self.scores(progress)
        step, wer = self.state.step, scores.mean_wer
        by_language = {entry.language: entry.wer.rate for entry in scores.languages}
        entry: dict[str, Any] = {"step": step, "mean_wer": wer, "mean_cer": scores.mean_cer, "wer": by_language}
        pathways = self.asr.pathways
        if pathways is not None:
            entry["sparsity"] = pathways.sparsity
        self._saved = False
        self.state.history.append(entry)
        self._write_history()
        progress.scalars(step, {"dev/mean_wer": wer, "dev/mean_cer": scores.mean_cer})
        progress.scalars(step, {f"dev/wer_{language}": value for language, value in by_language.items()})
        languages = ", ".join(f"{language} {100 * value:.1f}" for language, value in by_language.items())
        progress.line(
            f"step {step}: dev WER {100 * wer:.1f}%, CER {100 * scores.mean_cer:.1f}% ({languages}){self._masks()}"
        )
        if self.config.evaluation.choose == "best" and (pathways is None or pathways.at_target):
            self._keep(step, wer)
        progress.resumed()

    def _write_history(self) -> None:
        if self.fabric.is_global_zero:
            write_json(self.out / "history.json", self.state.history)

    def _masks(self) -> str:
        """Overlap and union of the pathways, where they are not shared."""
        pathways = self.asr.pathways
        if pathways is None or pathways.config.shared:
            return ""
        summary = pathways.summary()
        overlap = "" if summary.mean_iou is None else f"; mean IoU {summary.mean_iou:.2f}"
        return f"{overlap}; union density {100 * summary.union_density:.1f}%"

    def _keep(self, step: int, wer: float) -> None:
        """Keeps the model of this step if it is among the best."""
        best = sorted([*self.state.best, {"step": step, "wer": wer}], key=lambda entry: entry["wer"])
        self.state.stale = 0 if best[0]["step"] == step else self.state.stale + 1
        self.state.best = best[: self.config.evaluation.keep_best]
        if self.fabric.is_global_zero and {"step": step, "wer": wer} in self.state.best:
            save_model(self._best_folder(step), self.asr)

    def _best_folder(self, step: float) -> Path:
        return self.out / "checkpoints" / f"step-{int(step):07d}"

    def _best_folders(self) -> set[Path]:
        return set(self.checkpoint.parent.glob("step-" + 7 * "[0-9]"))

    def _write_checkpoint(self, progress: TrainingProgress) -> None:
        """Writes the state of the run if it has changed, then removes the models that no kept checkpoint names."""
        if self._saved:
            return
        self._saved = True
        gathered = ranks.gather(self.left_out.reasons, self.fabric.device)
        for reasons in gathered:
            self.left_out.update(reasons)
        if self.fabric.is_global_zero:
            self._write_state(progress)
        if (
            len(set().union(*gathered)) > self.left_out.most
        ):  # on all ranks alike: threads may have left out more by now
            self.fabric.barrier()
            self.left_out.require_few()

    def _write_state(self, progress: TrainingProgress) -> None:
        progress.flush()
        if self.left_out:
            self.left_out.write(self.out / LEFT_OUT)
        parts: dict[str, Any] = {
            "model": self.asr.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.batches.state_dict(),
            "origin": self.origin.state_dict(self.left_out),
        }
        if self.asr.pathways is not None:
            parts["pathways"] = self.asr.pathways.state_dict()
        write_checkpoint(self.checkpoint, self.state, parts, self.config.keep_last)
        shutil.rmtree(self._solved, ignore_errors=True)
        self._needed.append({self._best_folder(entry["step"]) for entry in self.state.best})
        for folder in self._best_folders().difference(*self._needed):
            shutil.rmtree(folder, ignore_errors=True)

    def _report_left_out(self, progress: TrainingProgress) -> None:
        reasons = list(self.left_out.reasons.values())
        if not reasons:
            return
        progress.line(f"utterances left out, as they cannot be used: {len(reasons)}; {self.out / LEFT_OUT} lists them")
        for reason in reasons[:10]:
            progress.line(f"  {reason}")
        if len(reasons) > 10:
            progress.line(f"  and {len(reasons) - 10} more")

    def _finish(self, progress: TrainingProgress) -> None:
        """Writes the model to ``out``: the last, the best, or the mean of the best ones if that is better on dev."""
        wer = self.state.history[-1]["mean_wer"] if self.state.history else None
        if self.state.best and self.config.evaluation.choose == "best":  # else those are of before the run went on
            best = self.state.best[0]
            wer = best["wer"]
            self._load(self._best_folder(best["step"]))
            chosen = f"step {int(best['step'])}, dev WER {100 * best['wer']:.1f}%"
            if self.config.evaluation.average and self.asr.pathways is None and len(self.state.best) > 1:
                single = {name: value.clone() for name, value in self.asr.model.state_dict().items()}
                self.asr.model.load_state_dict(self._mean_of_best())
                averaged = self.scores(progress, shared=False).mean_wer
                if averaged <= best["wer"]:
                    chosen = f"mean of {len(self.state.best)} models, dev WER {100 * averaged:.1f}%"
                else:
                    self.asr.model.load_state_dict(single)
            progress.line(f"best: {chosen}")
        if wer is not None and self.state.dense is not None:
            self._report_quality(wer, self.state.dense, progress)
        save_model(self.out, self.asr)

    def _report_quality(self, wer: float, dense: float, progress: TrainingProgress) -> None:
        """A pruned model beside the dense one, in lines and on its card, with what to change where it is bad."""
        pathways = self.asr.pathways
        assert pathways is not None
        lines = beside_dense(wer, dense), warning(wer, dense, changes(self.config, pathways.config.sparsity))
        for line in filter(None, lines):
            progress.line(line)
        self.asr.card = self.asr.card.model_copy(update={"quality": "; ".join(filter(None, lines))})

    def _load(self, folder: Path) -> None:
        self.asr.model.load_weights(folder)
        if self.asr.pathways is not None:
            self.asr.pathways.load_masks(folder / "pathways")

    def _mean_of_best(self) -> dict[str, Tensor]:
        """The mean of the kept models' weights (Izmailov et al. 2018, arXiv 1803.05407)."""
        total: dict[str, Tensor] = {}
        for entry in self.state.best:
            self.asr.model.load_weights(self._best_folder(entry["step"]))
            for name, value in self.asr.model.state_dict().items():
                share = value.detach() / len(self.state.best)
                total[name] = total[name] + share if name in total else share.clone()
        return total
