"""articles -> base: draw the documents of each article's question: oracle passages, or none, among distractors of its split.

The draw needs only the index of the passages, so two strategies give the same rows. With `broadcast`, tasks take the texts
from a file that all workers of a machine memory-map. With `join`, tasks send each other the texts by Spark's shuffle; this is
for a corpus that does not fit on a worker's disk.
"""

from collections.abc import Mapping
from typing import Any

from raft_spark import config
from raft_spark.endpoints.base import retried_classes
from raft_spark.errors import InputError
from raft_spark.inference import embeddings, vectors
from raft_spark.lake import dataframes, driver_memory, schemas, session, tables
from raft_spark.lake.tasks import worker_errors
from raft_spark.monitoring import progress
from raft_spark.recipe import corpus, corpus_files, retrieval, sampling
from raft_spark.stages import base_join, base_rows

COUNTED_AT_ONCE = 1 << 20  # articles


def run(conf: config.Config, tasks: int = 0) -> tables.Version:
    """Draw the base rows of the current articles; return the current version. `tasks` = 0 sets it by size and cores.

    Raises InputError, before anything is written or asked, when a split is too small for its draws. For distractors from
    embeddings it raises ConfigError when `completions.max_spend` is set and the price is unknown, and what `embeddings.ask`
    and `vectors.build` raise.
    """
    conf.check_max_spend(filter(None, [conf.base.embedder]))
    articles = tables.require(conf.lake, schemas.ARTICLES)
    unused = {"endpoint"} if sampling.methods(conf.base) else True  # the model of the endpoint is what counts
    settings = conf.base.model_dump(exclude={"strategy": True, "broadcast_limit_mb": True, "retrieval": unused})
    sources = [articles.id, conf.lake.row_group_rows, *embeddings.request_settings(conf)]
    identity = tables.identity(schemas.BASE, settings, sources)
    existing = tables.find_existing(conf.lake, schemas.BASE, identity)
    if existing and not retried_classes(conf.completions) & existing.counts.get("not_embedded", {}).keys():
        return existing
    spark = session.start(conf, schemas.BASE)
    driver_memory.warn_if_small(spark, conf, sum(articles.counts["numbers"]))
    row_groups, parts = tables.row_groups(conf.lake, articles), tables.index_row_groups(conf.lake, articles)
    folder = corpus_files.make_folder(spark)
    with worker_errors():
        starts = corpus.build_index(row_groups, parts, articles.counts["numbers"], folder)
        strategy = choose_strategy(conf.base, int(corpus.text_offsets(folder)[-1]))
        counts = check_draws(corpus.map_index(f"{folder}/{corpus.INDEX}"), conf.base)
        if methods := sampling.methods(conf.base):
            retrieval.build(row_groups, methods, folder)
        if conf.base.embedder:
            embeddings.ask(spark, conf, articles)
            counts["not_embedded"] = vectors.build(conf, row_groups, articles.counts["numbers"], folder)
        draft = tables.open_draft(conf.lake, schemas.BASE, identity)
        size = sum(file.bytes for file in articles.data())
        drawing = dataframes.group_inputs(row_groups, tasks or dataframes.task_count(spark, conf.lake, size))
        if strategy == "broadcast":
            corpus_files.write_texts(spark, row_groups, starts, folder)
        task = base_rows.BaseTask(conf, draft.storage, corpus_files.distribute(spark, folder, draft.id))
        if strategy == "broadcast":
            with progress.spark_tasks(spark, "base: draw distractors", len(drawing)):
                files = dataframes.collect_files(base_rows.build(dataframes.one_task_each(spark, drawing), task))
        else:
            with progress.spark_tasks(spark, "base: draw distractors and send texts"):
                files = base_join.build(spark, drawing, starts, task)
        corpus_files.delete(spark, task.corpus)
    return tables.publish(draft, conf, files, {schemas.ARTICLES: articles}, {**counts, "strategy": strategy})


def choose_strategy(conf: config.Base, text_bytes: int) -> str:
    """Return the strategy; `auto` is broadcast for up to base.broadcast_limit_mb of text, else join."""
    if conf.strategy != "auto":
        return conf.strategy
    return "broadcast" if text_bytes <= conf.broadcast_limit_mb * 1_000_000 else "join"


def check_draws(index: Mapping[str, corpus.CorpusIndex], conf: config.Base) -> dict[str, Any]:
    """Count the rows of each split. Raises InputError if a row needs more distractors than there are other articles."""
    rows, distracted, singles = {}, {}, {}
    for split, split_index in index.items():
        rows[split], distracted[split], singles[split], need = 0, 0, 0, 0
        for start in range(0, split_index.size, COUNTED_AT_ONCE):
            pubids, count = (of[start : start + COUNTED_AT_ONCE] for of in (split_index.pubid, split_index.count))
            pubids, count = pubids[count > 0], count[count > 0]
            of_row, keep = sampling.base_rows(pubids, conf)
            rows[split] += len(of_row)
            distracted[split] += int((~keep).sum())
            singles[split] += int(sampling.distractor_counts(count[of_row], keep, conf).sum())
            need = max(need, int(sampling.articles_needed(count[of_row], keep, conf).max(initial=0)))
        available = int((split_index.count > 0).sum())
        if need > max(0, available - 1):
            msg = (
                f"split {split} has {available} articles, but a row there needs distractors from {need} others; "
                f"take more articles, lower base.distractors (k = {conf.distractors}), or set articles.{split}_share = 0"
            )
            raise InputError(msg.replace("articles.train_share = 0", "smaller validation and test shares"))
    return {"rows": rows, "distracted": distracted, "distractors": singles}
