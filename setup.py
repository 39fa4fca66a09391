"""Run setuptools. pyproject.toml holds the metadata; this file adds conf/ as a package, since conf/ lies outside raft_spark/."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["raft_spark", "raft_spark.*"]), "raft_spark.conf"],
    package_dir={"raft_spark.conf": "conf"},
)
