"""The training of a two-tower network: steps, validations, early stopping, checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ModelError
from recsys.models.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_optimiser,
    optimiser_tensors,
    save_checkpoint,
)
from recsys.models.team import Team
from recsys.models.tower_loss import TowerLoss
from recsys.models.tower_validation import Validation
from recsys.models.towers import TwoTowerNetwork
from recsys.models.training_examples import ExampleSource, Windows
from recsys.models.two_tower_params import TwoTowerParams
from recsys.types import FloatArray, LongArray, Progress

CHECKPOINT = "two_tower.safetensors"

#: The rate rises over one in so many of the planned steps at most.
WARMUP_SHARE = 10
#: Fewest steps between two validations at the ends of epochs.
LEAST_EVALUATED = 20
#: Steps after which the losses are looked at: on a GPU a look waits for the device.
_LOOK_EVERY = 50

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LearningPoint:
    """How far training was after a step.

    Attributes:
        step: from 1.
        loss: mean over the steps since the point before.
        recall, ndcg: at 20 on the held-out events; None where nothing was held out.
    """

    step: int
    loss: float
    recall: float | None = None
    ndcg: float | None = None


@dataclass
class _State:
    """What is neither weight nor optimiser state, and goes into a checkpoint's header."""

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    best_step: int = 0
    best_ndcg: float = -1.0
    worse: int = 0
    finished: bool = False


class Trainer:
    """Trains a network in place.

    Every random number of a step follows from the seed and the step, so that a training that was killed goes
    on as if it had not been.

    Args:
        network: on its device.
        source: where the batches come from.
        windows: of the source.
        loss: of a batch; it draws from its own generator, which is seeded anew for every step.
        params: how to train.
        of_popularity: the loss of who knows nothing but how often each target is right.
        seed: of everything drawn.
        validation: what to stop by, in the leader.
        validates: whether there is such; if not, it trains to the end.
        identity: data, parameters and seed in words; a checkpoint of another identity is not used.
        checkpoint_dir: where checkpoints go, if anywhere.
        progress: told of every look at the losses.
    """

    def __init__(
        self,
        network: TwoTowerNetwork,
        source: ExampleSource,
        windows: Windows,
        loss: TowerLoss,
        params: TwoTowerParams,
        *,
        of_popularity: float,
        seed: int,
        validation: Validation | None,
        validates: bool,
        identity: Mapping[str, str],
        checkpoint_dir: Path | None,
        progress: Progress | None,
    ) -> None:
        self.network = network
        self.source = source
        self.windows = windows
        self.loss = loss
        self.params = params
        self.of_popularity = of_popularity
        self.seed = seed
        self.validation = validation
        self.validates = validates
        self.team = Team.current()
        self.identity = dict(identity)
        self.path = None if checkpoint_dir is None else checkpoint_dir / CHECKPOINT
        self.progress = progress
        self.curve: list[LearningPoint] = []
        self._state = _State()
        self._best: dict[str, Tensor] = {}
        self._pending: list[Tensor] = []
        self._last_loss = float("nan")
        self._kept_step: int | None = None  # of the checkpoint in the folder
        self._optimisers = _optimisers(network, params)
        per_epoch = min(int(windows.n_examples.sum()), params.examples_per_epoch)
        whole = params.epochs * max(1, round(per_epoch / params.batch_size))
        planned = max(whole, params.min_steps)
        planned = min(planned, params.max_steps or planned)
        # Of what was planned, so that a fit of known length begins as the one that it repeats.
        self._warmup = min(params.warmup_steps, planned // WARMUP_SHARE)
        self._total = params.steps or planned

    @property
    def best_step(self) -> int:
        """The step whose weights the network has after `run`."""
        return self._state.best_step if self.validates else self._state.step

    def run(self) -> None:
        """Train to the end, from the last checkpoint if there is one of this very training.

        It seeds torch's global generators, which the dropouts draw from: fork them around it.

        Raises:
            ModelError: the loss is no longer finite, or the device has too little memory.
        """
        self._resume()
        self._begin_as_one()
        self.network.train()
        for batch in self._batches():
            self._step(batch)
            self._after_step()
            if self._state.finished:
                break
        if self._best:
            self.network.load_state_dict(self._best)
        self.network.eval()
        if self.team.leads and self.curve[-1].loss >= self.of_popularity > 0:
            _log.warning(
                "after %d steps the two-tower knows no more of users than popularity does: its loss is %.4f, "
                "popularity's %.4f; train it longer (max_steps, epochs), or lower learning_rate=%g if the "
                "loss has stopped falling",
                self.curve[-1].step,
                self.curve[-1].loss,
                self.of_popularity,
                self.params.learning_rate,
            )

    def _batches(self) -> Iterator[LongArray]:
        """Batches from where the state says; the state's epoch moves on with them."""
        state, params = self._state, self.params
        while not state.finished:
            batches = self.windows.batches(
                batch_size=params.batch_size,
                at_most=params.examples_per_epoch,
                rng=np.random.default_rng([self.seed, state.epoch]),
            )
            order = list(batches)
            for place in range(state.step_in_epoch, len(order)):
                state.step_in_epoch = place + 1
                if state.step_in_epoch == len(order):
                    state.epoch, state.step_in_epoch = state.epoch + 1, 0
                yield order[place]

    def _step(self, windows: LongArray) -> None:
        state = self._state
        step_seed = int(np.random.SeedSequence([self.seed, state.step]).generate_state(1)[0])
        torch.manual_seed(step_seed + self.team.rank)  # what is dropped differs, what is drawn does not
        self.loss.generator.manual_seed(step_seed)
        rate = learning_rate(self.params, state.step, self._total, warmup=self._warmup)
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate
        try:
            loss = self._advance(windows)
        except (RuntimeError, MemoryError) as error:
            if not of_memory(error):
                raise
            loss = None  # what the step held goes with its traceback, before smaller batches are tried
        if loss is None:
            raise self._too_large(windows)
        state.step += 1
        self._pending.append(loss)

    def _advance(self, windows: LongArray) -> Tensor:
        loss = self._loss_of_share(windows)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = self.team.sum_gradients(list(self.network.parameters()), loss)
        for optimiser in self._optimisers:
            optimiser.step()
        return loss

    def _loss_of_share(self, windows: LongArray) -> Tensor:
        """This process's part of a batch's loss; the parts of all sum to it."""
        at = self._moments(len(windows))
        if self.team.size == 1:
            return self.loss(self.source.batch(windows, at))
        whole, mine = self.source.examples(windows, at), self.team.share(windows)
        if len(mine):
            return self.loss(self.source.batch(mine, None if at is None else self.team.share(at)), whole)
        # Every process has a gradient of every weight, even where it has no window.
        return 0.0 * self.loss(self.source.batch(windows[:1], None if at is None else at[:1]), whole)

    def _moments(self, n: int) -> FloatArray | None:
        """(n,) by which of its examples each window's moment is, if by any; see `ExampleSource.batch`."""
        if self.params.ahead != "all":
            return None
        return np.random.default_rng([self.seed, self._state.step]).random(n, dtype=np.float32)

    def _after_step(self) -> None:
        state, params = self._state, self.params
        done = state.step >= self._total
        if params.evaluate_every is None:
            # A small log's epochs are a few steps, too few to tell anything by.
            last = self.curve[-1].step if self.curve else 0
            evaluates = state.step_in_epoch == 0 and state.step - last >= LEAST_EVALUATED
        else:
            evaluates = state.step % params.evaluate_every == 0
        checkpoints = self.path is not None and state.step % params.checkpoint_every == 0
        if done or evaluates or checkpoints or state.step % _LOOK_EVERY == 0:
            self._look()
        if done or evaluates:
            self._evaluate()
        state.finished = state.finished or done
        # The best so far is kept too: what comes after it may diverge.
        if checkpoints or state.finished or (evaluates and state.best_step == state.step):
            self._save()

    def _look(self) -> None:
        """Read the losses since the last look; stop at the first that is not finite."""
        state = self._state
        values = torch.stack(self._pending).tolist()
        for place, value in enumerate(values):
            if not np.isfinite(value):
                step = state.step - len(values) + place + 1
                raise self._diverged(f"the loss of step {step} is {value}")
        self._pending.clear()
        self._last_loss = values[-1]
        state.loss_sum += sum(values)
        state.loss_steps += len(values)
        if self.progress is not None:
            self.progress(state.step, self._total, f"loss {values[-1]:.4f}")

    def _evaluate(self) -> None:
        """Add a point to the learning curve; remember the weights if they are the best so far."""
        state = self._state
        point = LearningPoint(state.step, state.loss_sum / state.loss_steps)
        state.loss_sum, state.loss_steps = 0.0, 0
        self._check_weights()
        if self.validates:
            found = (0.0, 0.0) if self.validation is None else self.validation.measure(self.network)
            recall, ndcg = self.team.as_led(found)
            self.network.train()
            point = replace(point, recall=recall, ndcg=ndcg)
            if ndcg > state.best_ndcg:
                state.best_ndcg, state.best_step, state.worse = ndcg, state.step, 0
                self._best = {
                    name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()
                }
            else:
                state.worse += 1
            state.finished = state.worse >= self.params.patience
        self.curve.append(point)

    def _save(self) -> None:
        if self.path is None:
            return
        self._check_weights()
        save_checkpoint(self.path, self._checkpoint())
        self._kept_step = self._state.step

    def _check_weights(self) -> None:
        """A loss is of the weights before its step: the last step may have broken them."""
        for name, tensor in self.network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise self._diverged(f"{name} is not finite after step {self._state.step}")
        if self.network.tells_nothing_apart:
            raise self._diverged(
                f"by step {self._state.step} the temperature is {self.network.temperature.item():.3g},"
                f" so that all scores are alike, and the loss {self._last_loss:.4f},"
            )

    def _diverged(self, how: str) -> ModelError:
        kept = (
            ""
            if self._kept_step is None
            else f"; the checkpoint of step {self._kept_step} is kept in {self.path}"
        )
        return ModelError(
            f"training diverged: {how} at learning_rate={self.params.learning_rate}; lower it{kept}"
        )

    def _checkpoint(self) -> Checkpoint:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self._best.items()}
        for n, optimiser in enumerate(self._optimisers):
            tensors |= optimiser_tensors(optimiser, f"optimiser{n}")
        state = {
            "identity": self.identity,
            "training": asdict(self._state),
            "curve": [asdict(point) for point in self.curve],
        }
        return Checkpoint(tensors, state)

    def _resume(self) -> None:
        found = None if self.path is None else load_checkpoint(self.path)
        if found is None:
            return
        if found.state["identity"] != self.identity:
            differs = [key for key in self.identity if found.state["identity"].get(key) != self.identity[key]]
            _log.warning(
                "%s is of another training (%s differ): starting anew", self.path, ", ".join(differs)
            )
            return
        self._restore(found)
        self._kept_step = self._state.step
        _log.info("%s: going on from step %d", self.path, self._state.step)

    def _restore(self, found: Checkpoint) -> None:
        self.network.load_state_dict(_under(found.tensors, "network."))
        self._best = {
            name: tensor.to(self.source.device) for name, tensor in _under(found.tensors, "best.").items()
        }
        for n, optimiser in enumerate(self._optimisers):
            load_optimiser(optimiser, found.tensors, f"optimiser{n}")
        self._state = _State(**found.state["training"])
        self.curve = [LearningPoint(**point) for point in found.state["curve"]]

    def _begin_as_one(self) -> None:
        """Followers take the leader's weights and how far it is."""
        if self.team.size == 1:
            return
        if self.team.leads:
            checkpoint = self._checkpoint()
            arrays = {name: tensor.cpu().numpy() for name, tensor in checkpoint.tensors.items()}
            self.team.tell(checkpoint.state, arrays)
        else:
            state, arrays = self.team.hear()
            self._restore(
                Checkpoint({name: torch.from_numpy(array) for name, array in arrays.items()}, state)
            )

    def _too_large(self, windows: LongArray) -> ModelError:
        """The error for a batch that the device has no memory for: it names one that fits, found by trial."""
        n = len(windows)
        while n > 1:
            n //= 2
            if self._fits(windows[:n]):
                fits = int(self.windows.n_examples[windows[:n]].sum())
                return ModelError(
                    f"{self.source.device} has too little memory for batch_size={self.params.batch_size}:"
                    f" {fits} would fit"
                )
        return ModelError(
            f"{self.source.device} has too little memory for batch_size={self.params.batch_size}, and for a"
            f" single window too: lower history_length, dim or uniform_negatives"
        )

    def _fits(self, windows: LongArray) -> bool:
        """Whether a whole step of these windows fits; the weights are of no use after."""
        for optimiser in self._optimisers:
            optimiser.zero_grad(set_to_none=True)
        if self.source.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self.loss(self.source.batch(windows, self._moments(len(windows)))).backward()  # type: ignore[no-untyped-call]
            for optimiser in self._optimisers:
                optimiser.step()
        except (RuntimeError, MemoryError) as error:
            if not of_memory(error):
                raise
            return False
        return True


def of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether a device had too little: torch tells of a GPU by type, of the CPU by words alone."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "allocate memory" in str(error)


def learning_rate(params: TwoTowerParams, step: int, total: int, *, warmup: int) -> float:
    """Of the step after so many of a total, in the first of which it rises."""
    rate = params.learning_rate * min(1.0, (step + 1) / max(warmup, 1))
    return rate * (1 + math.cos(math.pi * step / total)) / 2 if params.cosine_decay else rate


def _optimisers(network: TwoTowerNetwork, params: TwoTowerParams) -> list[torch.optim.Optimizer]:
    """Adam for everything; the lazy Adam, which touches the batch's rows alone, for sparse tables."""
    sparse = [
        tower.ids.weight
        for tower in (network.users, network.targets)
        if tower.ids is not None and tower.ids.sparse
    ]
    of_tables = {id(weight) for weight in sparse}
    dense = [
        weight for weight in network.parameters() if id(weight) not in of_tables and weight.requires_grad
    ]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(dense, lr=params.learning_rate, weight_decay=params.weight_decay, fused=True)
    ]
    if sparse:
        optimisers.append(torch.optim.SparseAdam(sparse, lr=params.learning_rate))
    return optimisers


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
