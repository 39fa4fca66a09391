"""Run setuptools: pyproject.toml holds the metadata. Here stands what it cannot say, a package that lies beside another."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["raft_spark", "raft_spark.*"]), "raft_spark.conf"],
    package_dir={"raft_spark.conf": "conf"},
)
