"""The configuration: one home of defaults, errors that name the key, overrides that touch no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from recsys.data.behaviours import BehaviourWeights
from recsys.errors import ConfigError
from recsys.models.collaborative import ALSParams
from recsys.types import Behaviour
from training.config import TrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs"


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_default_file_says_what_the_code_says() -> None:
    assert TrainingConfig.load(CONFIGS / "default.yaml") == TrainingConfig()


def test_a_later_file_lies_over_an_earlier_one(tmp_path: Path) -> None:
    mine, tuned = tmp_path / "mine.yaml", tmp_path / "best.yaml"
    mine.write_text("seed: 7\nmodels: {als: {params: {factors: 8, alpha: 3}}}\n")
    tuned.write_text("models: {als: {params: {factors: 64}}}\n")
    config = TrainingConfig.load([mine, tuned])
    assert (config.seed, config.models.als.params.factors, config.models.als.params.alpha) == (7, 64, 3)
    tuned.write_text("models: {als: {params: {factor: 64}}}\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml and .*best\.yaml: models\.als\.params\.factor"):
        TrainingConfig.load([mine, tuned])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_config_of_the_project_loads(path: Path) -> None:
    config = TrainingConfig.load(path)
    assert (config == TrainingConfig()) is (path.name == "default.yaml")


def test_defaults_of_a_model_live_beside_the_model() -> None:
    assert TrainingConfig().models.als.params == ALSParams()
    assert TrainingConfig().weights == BehaviourWeights()


def test_resolved_config_reads_back_equal(tmp_path: Path) -> None:
    config = TrainingConfig.load(None, ["seed=7", "goals=[purchase, cart]", "models.als.params.factors=8"])
    assert TrainingConfig.load(written(tmp_path, config.to_yaml())) == config


def test_overrides_are_yaml_and_lie_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\nmodels: {als: {params: {factors: 16, alpha: 2}}}\n")
    config = TrainingConfig.load(
        path,
        [
            "models.als.params.factors=8",
            "split.test_days=1e1",
            "evaluation.k=[5, 20]",
            "fusion.params.returns=no",
            "models.bpr.enabled=yes",
            "goals=[purchase]",
        ],
    )
    assert config.seed == 1
    assert (config.models.als.params.factors, config.models.als.params.alpha) == (8, 2)
    assert config.split.test_days == 10
    assert config.evaluation.k == (5, 20)
    assert config.fusion.params.returns == "no"
    assert config.models.bpr.enabled is True
    assert config.goals == (Behaviour.PURCHASE,)


def test_a_later_override_wins() -> None:
    assert TrainingConfig.load(None, ["seed=1", "seed=2"]).seed == 2


def test_naming_one_weight_keeps_the_others() -> None:
    weights = TrainingConfig.load(None, ["weights.weights.purchase=50"]).weights.weights
    assert weights == BehaviourWeights().weights | {Behaviour.PURCHASE: 50.0}


def test_shared_settings_reach_every_part_that_does_not_say_otherwise() -> None:
    config = TrainingConfig.load(
        None, ["seed=7", "device=cpu", "threads=3", "weights.half_life_days=5", "models.als.params.seed=1"]
    )
    models = config.models
    assert (models.als.params.seed, models.bpr.params.seed) == (1, 7)
    assert config.hot.params.learner.seed == 7
    assert models.als.params.device == models.bpr.params.device == "cpu"
    assert models.bpr.params.threads == config.hot.params.learner.threads == 3
    assert models.als.params.weights.half_life_days == models.popular.weights.half_life_days == 5


def test_popularity_keeps_its_own_half_life_where_nothing_is_said() -> None:
    config = TrainingConfig.load(None, ["weights.weights.cart=9"])
    assert config.models.popular.weights.half_life_days == 7
    assert config.models.popular.weights.weights[Behaviour.CART] == 9


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed = -1: must be at least 0"),
        ("device=gpu", 'device = "gpu": must be auto, cpu or cuda'),
        ("threads=0", "threads = 0: must be auto or at least 1"),
        ("models.als.enabled=maybe", 'models.als.enabled = "maybe": must be auto or true or false'),
        ("models.als.params.factor=3", "models.als.params.factor: no such key; did you mean factors?"),
        ("model.als.enabled=true", "model: no such key; did you mean models?"),
        ("weights.weights.buy=3", "weights.weights.buy: no such key; allowed are impression, click"),
        ("goals=[buy]", 'goals.0 = "buy": must be impression, click'),
        ("evaluation.k=[0]", "k=[0]: name at least one list length"),
        ("split.gap_hours=abc", 'split.gap_hours = "abc": must be a number'),
        ("seed=", "seed = null: must be a whole number"),
        ("seed.deep=1", 'seed = {"deep": 1}: must be a whole number'),
        ("models.two_tower.params.heads=3", "heads=3 does not divide dim=64"),
        ("promote.guards=[{segment: new}]", "promote.guards.0: metric is missing"),
        ("promote.metric=coverage@20", "must be text that matches ^(recall|ndcg"),
        ("promote.guards=[{metric: coverage@20, segment: new}]", "coverage@20 is of all lists at once"),
        ("promote.metric=ndcg@7", "promote asks for ndcg@7, evaluation.k measures [10, 20, 50]"),
        ("seed", "write it as key.sub=value"),
        ("models..als=1", "write it as key.sub=value"),
        ("seed=[1", "'[1' is not a YAML value"),
    ],
)
def test_a_bad_override_is_one_line_that_names_key_value_and_what_is_allowed(
    override: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.load(None, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--set" in str(caught.value)


def test_a_bad_shared_setting_is_reported_once() -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.load(None, ["device=gpu"])
    assert str(caught.value).count("auto, cpu or cuda") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- seed", "holds a list"),
        ("seed: [1", "not valid YAML"),
        ("seed: 1\nseed: 2", "key 'seed' is given twice"),
        ("seed: 1\nfactors: 2", "factors: no such key"),
        ("seed: x", 'seed = "x": must be a whole number'),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        TrainingConfig.load(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read"):
        TrainingConfig.load(tmp_path / "gone.yaml")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert TrainingConfig.load(written(tmp_path, "# nothing\n")) == TrainingConfig()


def test_a_password_in_the_tracking_uri_is_not_written_down() -> None:
    config = TrainingConfig.load(None, ["tracking.uri=postgresql://me:s3cret@host:5432/runs"])
    assert config.tracking.uri == "postgresql://me:s3cret@host:5432/runs"
    assert yaml.safe_load(config.to_yaml())["tracking"]["uri"] == "postgresql://me:***@host:5432/runs"


def test_judged_like_changes_the_judge_and_not_the_models() -> None:
    mine = TrainingConfig.load(None, ["seed=3", "split.test_days=3", "models.als.params.factors=8"])
    other = TrainingConfig.load(None, ["split.test_days=9", "goals=[cart]", "evaluation.samples=300"])
    joined = mine.judged_like(other)
    assert joined.models == mine.models
    assert joined.seed == other.seed
    assert (joined.split, joined.goals, joined.evaluation) == (other.split, other.goals, other.evaluation)
