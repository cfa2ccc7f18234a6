"""Parameters of the two-tower model and their defaults."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from recsys.models.training_examples import Ahead
from recsys.search import OneOf, Within
from recsys.types import Behaviour, Params

#: Columns of an entity table by name, or those that suit any log.
FeatureColumns = tuple[str, ...] | Literal["auto"]


class TwoTowerParams(Params):
    """What the towers look like, what they are asked to predict, and for how long.

    Attributes:
        dim: d, width of the user and target vectors.
        history_length: L, the most past events that the user tower reads.
        heads: attention heads; they divide `dim`.
        layers: causal transformer layers over the history before it is pooled; 0 pools the events alone.
        dropout: share of history values dropped in training.
        user_id_embedding: whether a known user also has a vector of their own.
        user_id_dropout: share of training examples that do without it, so that an unknown user works.
        target_id_dropout: share of targets placed by content alone, so that a new one works. It applies only
            where there is content.
        title_dropout: share of targets placed without the words of their titles: few titles are alike, and
            together their words would stand in for an id.
        start: what the targets' ids begin from: drawn at random, or the directions in which those who turned
            to them differ most (`spectral`): fewer steps then come to better vectors of ids, and content, for
            which less is left to explain, learns less.
        user_features, target_features: columns of the users' and the targets' tables. `auto` takes the
            contract's columns, a title word by word, and every other text column of few values.
        max_categories: the most values of a column that get a place of their own; rarer ones share one. Also
            the most words of titles.
        normalise: whether vectors have length 1, so that a score is a cosine over the temperature.
        popularity: what the score of a target has besides, in logs of how often it was right: more than 0
            where what is popular will be turned to more than the log says, less for what is rare. It is no
            weight, but is put into the finished vectors. After Menon et al., "Long-Tail Learning via Logit
            Adjustment", 2021, there post hoc and less than 0.
        temperature: what scores are divided by in the loss; its start if `learn_temperature`.
        learn_temperature: whether the temperature is trained.
        loss: softmax over all targets (`full`), over sampled ones (`sampled`), or `auto`: full up to
            `full_softmax_up_to` targets.
        full_softmax_up_to: the largest catalogue for which `auto` takes the full softmax.
        in_batch_negatives: whether the other users' targets of a batch are negatives.
        uniform_negatives: how many targets drawn evenly from the catalogue every batch shares.
        log_q: whether each negative is corrected by the chance that its sampler had of drawing it.
        exposed_negatives: how many targets that the user was shown and let pass, the latest before the event,
            stand against the target in a softmax of their own, where the log has impressions.
        exposure_window_s: how long before an event a showing still belongs to it, seconds.
        exposure_weight: what that softmax counts beside the other.
        hard_negatives: how many of the batch's negatives, those that score highest for the user, stand
            against the target in a softmax of their own.
        hard_below: a negative that scores more than this share of the target is taken for a target not yet
            found, and is no hard negative; nor is one that the user ever turned to. After Moreira et al.,
            "NV-Retriever", 2024.
        hard_weight: what that softmax counts beside the others.
        target_behaviours: what is predicted; None is every behaviour that has a weight.
        repeats: whether a target that the user already had is predicted again.
        ahead: what is predicted: every event from those before it (`next`); from one moment of a window,
            drawn anew for each pass, all of the window from there on (`all`): for tastes that last rather
            than what comes next; or the window from itself (`whole`): for logs whose order says little, or
            where what a user had is not shown again. A step over as many examples costs a fraction in both.
        batch_size: about how many training examples make a step.
        learning_rate: of Adam, after `warmup_steps` of linear rise, or a tenth of all steps if that is less.
        cosine_decay: whether the rate then falls to nothing at the last step, along half a cosine.
        weight_decay: decoupled, on everything but sparse tables.
        sparse_tables: whether id tables are updated only at the rows of the batch; `auto` from
            `sparse_from` numbers a table.
        epochs: the most passes over the examples; more on a small log, up to `min_steps`.
        min_steps: so many steps may be taken whatever `epochs` says.
        examples_per_epoch: the most examples a pass takes, drawn anew for each.
        max_steps: the most steps, whatever `epochs` says: 4,000 of 1,024 take three to four minutes on two
            cores.
        steps: train exactly so many, on all events: how a fit of known `best_step` is repeated without
            holding anything out.
        validation_days: the last days of the log held out to stop by; None takes `validation_share` instead.
        validation_share: the last share of events held out.
        validation_users: the most users that a validation ranks for.
        evaluate_every: steps between validations; None is once an epoch, or in some where those are short.
        patience: validations without a better NDCG@20 after which training stops.
        checkpoint_every: steps between checkpoints, where there is a folder for them.
        bf16: whether a GPU multiplies in bfloat16; tables and vectors stay float32.
        compile: whether a GPU runs the history encoder through torch.compile.
    """

    dim: Annotated[int, OneOf(32, 64, 128)] = Field(default=64, ge=1)
    history_length: Annotated[int, OneOf(20, 50, 100)] = Field(default=50, ge=1)
    heads: int = Field(default=2, ge=1)
    layers: Annotated[int, Within(0, 2)] = Field(default=0, ge=0)
    dropout: Annotated[float, Within(0.0, 0.4)] = Field(default=0.1, ge=0, lt=1)
    user_id_embedding: Annotated[bool, OneOf(True, False)] = True
    user_id_dropout: Annotated[float, Within(0.1, 0.9)] = Field(default=0.5, ge=0, le=1)
    target_id_dropout: Annotated[float, Within(0.0, 0.5)] = Field(default=0.1, ge=0, le=1)
    title_dropout: Annotated[float, Within(0.0, 0.7)] = Field(default=0.5, ge=0, lt=1)
    start: Annotated[Literal["random", "spectral"], OneOf("random", "spectral")] = "random"
    user_features: FeatureColumns = "auto"
    target_features: FeatureColumns = "auto"
    max_categories: int = Field(default=10_000, ge=1)
    normalise: bool = True
    popularity: Annotated[float, Within(0.0, 1.0)] = 0.0
    temperature: Annotated[float, Within(0.03, 0.3, log=True)] = Field(default=0.07, gt=0)
    learn_temperature: bool = True
    loss: Literal["auto", "sampled", "full"] = "auto"
    full_softmax_up_to: int = Field(default=4_096, ge=1)
    in_batch_negatives: bool = True
    uniform_negatives: Annotated[int, OneOf(256, 1_024, 4_096)] = Field(default=1_024, ge=0)
    log_q: bool = True
    exposed_negatives: int = Field(default=8, ge=0)
    exposure_window_s: float = Field(default=3_600.0, gt=0)
    exposure_weight: float = Field(default=0.3, ge=0)
    hard_negatives: int = Field(default=0, ge=0)
    hard_below: float = Field(default=0.95, gt=0, le=1)
    hard_weight: float = Field(default=0.3, ge=0)
    target_behaviours: tuple[Behaviour, ...] | None = None
    repeats: bool = True
    ahead: Annotated[Ahead, OneOf("next", "all", "whole")] = "next"
    batch_size: int = Field(default=1_024, ge=1)
    learning_rate: Annotated[float, Within(3e-4, 1e-2, log=True)] = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=100, ge=0)
    cosine_decay: Annotated[bool, OneOf(True, False)] = False
    sparse_tables: bool | Literal["auto"] = "auto"
    sparse_from: int = Field(default=32_000_000, ge=1)
    epochs: int = Field(default=20, ge=1)
    examples_per_epoch: int = Field(default=1_000_000, ge=1)
    min_steps: int = Field(default=400, ge=0)
    max_steps: int | None = Field(default=4_000, ge=1)
    steps: int | None = Field(default=None, ge=1)
    validation_days: float | None = Field(default=None, gt=0)
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    validation_users: int = Field(default=2_000, ge=1)
    evaluate_every: int | None = Field(default=None, ge=1)
    patience: int = Field(default=2, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    bf16: bool = True
    compile: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads={self.heads} does not divide dim={self.dim}")
        if not self.in_batch_negatives and not self.uniform_negatives and self.loss != "full":
            raise ValueError("no negatives: set uniform_negatives, in_batch_negatives or loss=full")
        return self
