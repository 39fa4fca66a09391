"""Metadata of raft-spark. EMR brings its own pyspark, so only `local` asks for one."""

from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
# What EMR does not bring: Spark asks for a pandas before it gives Arrow to Python; rapidfuzz and py3langid check answers where
# that is switched on; rapidfuzz and sacrebleu score those of students. Articles of the hub come by datasets, tokens are counted by
# its tokenizers.
emr = ["pandas>=2.2", "py3langid>=0.3", "rapidfuzz>=3.10", "sacrebleu>=2.6"]
hub = ["datasets>=5", "tokenizers>=0.21"]
report = ["jinja2>=3.1", "matplotlib>=3.10"]
# What trains a student, 6 GB with torch: in an environment of its own, or a container's.
train = [
    "accelerate>=1.15",
    "datasets>=5",
    "gguf>=0.19",
    "peft>=0.21",
    "torch>=2.15",
    "transformers>=5.23",
    "trl>=1.16",
]
evaluation = ["rapidfuzz>=3.10", "sacrebleu>=2.6", *report]
version = (here / "raft_spark/__init__.py").read_text().split('__version__ = "')[1].split('"')[0]

setup(
    name="raft-spark",
    version=version,
    description="RAFT fine-tuning datasets from PubMedQA, as Spark jobs: on a laptop with one command, on EMR Serverless at full size",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.11",
    packages=["raft_spark", "raft_spark.emr", "raft_spark.endpoints", "raft_spark.model", "raft_spark.conf"],
    package_dir={"raft_spark.conf": "conf"},
    package_data={"raft_spark": ["py.typed", "*.css", "*.html"], "raft_spark.conf": ["*.toml"]},
    entry_points={"console_scripts": ["raft-spark = raft_spark.cli:main"]},
    install_requires=[
        "boto3>=1.40",
        "click>=8.1",
        "numpy>=1.26",
        "pyarrow>=18",
        "pydantic>=2.9",
        "rich>=13.7",
        "urllib3>=2.2",
    ],
    extras_require={
        "local": [
            "pyspark==4.1.*",
            *emr,
            *hub,
            "openvino-genai>=2026.4",
            "starlette>=0.40",
            "uvicorn>=0.30",
            "install-jdk>=1.1",
            *evaluation,
        ],
        "emr": emr,
        "hub": hub,
        "evaluation": evaluation,
        "report": report,
        "sagemaker": ["sagemaker>=3.27,<4"],
        "train": train,
        "dev": [
            "cfn-lint>=1.50",
            "duckdb>=1.4",
            "hypothesis>=6.100",
            "import-linter>=2",
            "moto[server]>=5.1",
            "mypy>=1.13",
            "polars>=1.30",
            "pre-commit>=4",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "rouge-score>=0.1.2",
            "ruff>=0.8",
            *evaluation,
        ],
    },
    classifiers=["Programming Language :: Python :: 3.11", "License :: OSI Approved :: MIT License", "Typing :: Typed"],
)
