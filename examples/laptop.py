"""Make a dataset on a laptop: 90 built-in articles, answered by a small model on this machine. It takes some minutes.

python examples/laptop.py [more settings.toml ...]
"""

import sys

import raft_spark as rs

conf = rs.load_config("local.toml", *sys.argv[1:])
result = rs.run(conf)
for name, stage in result.stages.items():
    print(f"{name:<12} {stage.version} {stage.seconds:.1f} s")
dataset = rs.open_table(conf, "dataset")
print(dataset.counts["kept"], dataset.path)
print(dataset.to_pandas().head())
