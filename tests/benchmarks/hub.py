"""How fast a dataset of the hub is copied, from a hub on loopback that answers late and limits the rate of each answer.

    PYTHONPATH=tests:. python tests/benchmarks/hub.py [--rows 200000] [--files 5] [--latency 0.08] [--rate 50e6]

Prints seconds and CPU seconds with one request at a time and with as many as the code makes. The files are not compressed, so that
the built-in articles have the size of PubMedQA's. Takes about a minute and 1.5 GB of memory.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq

from raft_spark.sources import huggingface, synthetic
from support.loopback_hub import LoopbackHub

CONFIGS = b"---\nconfigs:\n- config_name: all\n  data_files: train-*\n---\n"
COPY = """
import sys, time
import datasets, huggingface_hub
from pyarrow import fs
from raft_spark.sources import huggingface

huggingface.AHEAD = int(sys.argv[1])
wall, cpu = time.monotonic(), time.process_time()
rows = huggingface.download(*sys.argv[2:], fs.LocalFileSystem()).rows
print(f"{rows:,} rows in {time.monotonic() - wall:.1f} s, CPU {time.process_time() - cpu:.1f} s")
"""


def main() -> None:
    """Copy the dataset with one request at a time, and with several."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--files", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.08, help="seconds before each answer; a range takes two")
    parser.add_argument("--rate", type=float, default=50e6, help="bytes a second of each answer")
    options = parser.parse_args()
    rows = -(-options.rows // options.files)
    files = {f"train-{number:05d}.parquet": parquet(number * rows, rows) for number in range(options.files)}
    with LoopbackHub("owner/name") as hub:
        revision = hub.commit({"README.md": CONFIGS, **files})
        hub.latency, hub.rate = options.latency, options.rate
        sys.stdout.write(f"{sum(map(len, files.values())) / 1e6:.0f} MB in {len(files)} files\n")
        for ahead in (1, huggingface.AHEAD):
            sys.stdout.write(f"{ahead} at a time: {copy(ahead, hub.url, revision)}")


def parquet(first: int, rows: int) -> bytes:
    """Return a file of built-in articles, 1,000 in a row group."""
    sink = io.BytesIO()
    batches = (synthetic.articles(at, min(at + 1_000, first + rows), 0) for at in range(first, first + rows, 1_000))
    with pq.ParquetWriter(sink, synthetic.SCHEMA, compression="none", use_dictionary=False) as writer:
        for batch in batches:
            writer.write_table(pa.Table.from_batches([batch]))
    return sink.getvalue()


def copy(ahead: int, url: str, revision: str) -> str:
    """Copy the dataset in a new process, since the client reads HF_ENDPOINT when it is imported; return what it prints."""
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        env = os.environ | {"HF_ENDPOINT": url, "HF_HOME": f"{folder}/home", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-c", COPY, str(ahead), "hf:owner/name/all", revision, f"{folder}/copy"]
        return subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
