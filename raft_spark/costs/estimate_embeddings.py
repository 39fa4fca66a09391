"""Compute what the embeddings of base would cost at most, from the articles; send no request."""

from raft_spark import config
from raft_spark.costs.bounds import CostBound, bound
from raft_spark.errors import ConfigError
from raft_spark.inference import embeddings
from raft_spark.lake import schemas, session, tables
from raft_spark.lake.tasks import worker_errors


def run(conf: config.Config) -> list[CostBound]:
    """Return the bound of the requests for texts without a vector.

    Raises ConfigError when no endpoint of embeddings is set, and InputError when there are no articles.
    """
    if not conf.base.embedder:
        raise ConfigError("no embeddings are asked for; base.distractors_from must have a share of embedding")
    articles = tables.require(conf.lake, schemas.ARTICLES)
    spark = session.start(conf, "estimate")
    with worker_errors():
        missing = embeddings.looked_up(spark, conf, articles).where("text IS NOT NULL")
        return [bound(missing, embeddings.endpoint_settings(conf), embeddings.build_request)]
