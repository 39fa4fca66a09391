"""The price of a model by its name, ARN or inference profile, and the refusal of a limit that nobody could keep."""

import pytest
from click.testing import CliRunner

from raft_spark import config
from raft_spark.cli.main import main
from raft_spark.errors import ConfigError

pytestmark = pytest.mark.row

ARN = "arn:aws:bedrock:eu-west-1:123456789012"
LITE, LITE_2, HAIKU = "amazon.nova-lite-v1:0", "amazon.nova-2-lite-v1:0", "anthropic.claude-haiku-4-5-20251001-v1:0"


def asking(model: str, *assignments: str) -> config.Config:
    own = (f'endpoints.mine={{kind="bedrock", model="{model}"}}', "completions.endpoint=mine")
    return config.load(assignments=[*own, *assignments])


@pytest.mark.parametrize(
    ("model", "price_in", "price_out"),
    [
        (LITE, 0.06, 0.24),
        (f"arn:aws:bedrock:us-east-1::foundation-model/{LITE}", 0.06, 0.24),
        (f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{LITE}", 0.06, 0.24),
        (f"us.{LITE_2}", 0.33, 2.75),
        (f"{ARN}:inference-profile/us.{LITE_2}", 0.33, 2.75),
        (f"eu.{LITE}", 0.06, 0.24),
        (f"apac.{LITE}", 0.06, 0.24),
        (f"eu.{LITE_2}", 0.33, 2.75),  # profiles of a region cost as much as those of the United States
        (f"{ARN}:inference-profile/eu.{LITE_2}", 0.33, 2.75),
        (f"global.{LITE_2}", 0.3, 2.5),
        (f"{ARN}:inference-profile/global.{HAIKU}", 1, 5),
        (f"jp.{HAIKU}", 1.1, 5.5),
        (f"au.{HAIKU}", 1.1, 5.5),
        ("us.openai.gpt-oss-20b-1:0", 0.07, 0.3),  # whose profile has no price of its own
    ],
)
def test_a_price_is_found_by_arn_and_by_inference_profile(model: str, price_in: float, price_out: float):
    price = asking(model, "completions.max_spend=1").price
    assert (price.input_price, price.output_price) == (price_in, price_out)
    asking(model, "completions.max_spend=1").check_max_spend()


def test_the_price_of_the_exact_name_comes_first():
    own = f'prices."eu.{LITE}"={{input_price=0.07, output_price=0.28}}'
    assert asking(f"{ARN}:inference-profile/eu.{LITE}", own).price.input_price == 0.07
    assert asking(f"eu.{LITE}", own, "endpoints.mine.input_price=0.09").price.input_price == 0.09
    assert asking(f"us.{LITE}", own).price.input_price == 0.06


UNKNOWN = [
    f"{ARN}:application-inference-profile/a1b2c3d4e5f6",
    f"{ARN}:provisioned-model/a1b2c3d4e5f6",
    f"{ARN}:imported-model/a1b2c3d4e5f6",
    f"{ARN}:custom-model/{LITE}/a1b2c3d4e5f6",
    "eu.nobody.knows-v1:0",
    "europe.amazon.nova-lite-v1:0",
    "some-model",
]


@pytest.mark.parametrize("model", UNKNOWN)
def test_a_limit_of_dollars_without_a_price_is_refused(model: str):
    conf = asking(model, "completions.max_spend=1.5")
    expected = (
        r"completions.max_spend is 1.5, and the price of endpoints.mine \(.*\) is unknown.*input_price.*hourly_price"
    )
    with pytest.raises(ConfigError, match=expected):
        conf.check_max_spend()
    asking(model).check_max_spend()
    asking(model, "completions.max_spend=1.5", "dataset.answer=original").check_max_spend()


ENOUGH = [
    {"input_price": 1.0, "output_price": 2.0},
    {"hourly_price": 1.5},
    {"input_price": 0.0, "output_price": 2.0},  # the prompt costs nothing: its own setting says so
]
TOO_LITTLE = [
    {"output_price": 2.0},
    {"input_price": 2.0},
    {"input_price": 0.0, "output_price": 0.0},  # nothing would ever stop the run
    {"batch_input_price": 1.0, "batch_output_price": 2.0},  # the rest is asked in real time
]


@pytest.mark.parametrize("prices", [*ENOUGH, *TOO_LITTLE])
def test_a_limit_of_dollars_needs_a_price_of_what_is_read_and_what_is_written(prices: dict[str, float]):
    conf = asking("m", "completions.max_spend=1", *(f"endpoints.mine.{name}={price}" for name, price in prices.items()))
    assert (conf.unpriced(["mine"]) == "") is (prices in ENOUGH)


def test_a_model_on_the_machines_of_the_job_needs_no_price():
    for name in ("embedded", "fake"):
        config.load(assignments=[f"completions.endpoint={name}", "completions.max_spend=1"]).check_max_spend()


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("completions", "completions.endpoint=mine"),
        ("run", "completions.endpoint=mine"),
        ("refresh", "completions.endpoint=mine"),
        ("evaluation", "evaluation.students=mine"),
        ("evaluation", "evaluation.judge=mine"),
    ],
)
def test_every_command_that_asks_refuses_it_before_anything_starts(command: str, asked: str, tmp_path):
    own = f'endpoints.mine={{kind="openai", url="http://127.0.0.1:1/v1", model="{UNKNOWN[0]}"}}'
    words = (own, asked, "completions.max_spend=1", f"lake.root={tmp_path / 'lake'}", "articles.source=sample:9")
    done = CliRunner().invoke(main, [command, *(part for word in words for part in ("--set", word))])
    assert done.exit_code == 2, done.output
    assert "the price of endpoints.mine" in done.output
    assert not (tmp_path / "lake").exists()
