"""Say which extra of raft-spark brings a package that is not installed: `pip install raft-spark` alone brings no Spark."""

from collections.abc import Iterator
from contextlib import contextmanager

from raft_spark.errors import ConfigError

EXTRAS = {
    **dict.fromkeys(("pyspark", "pandas", "py3langid", "starlette", "uvicorn", "openvino_genai"), "local"),
    **dict.fromkeys(("datasets", "tokenizers"), "hub"),
    **dict.fromkeys(("rapidfuzz", "sacrebleu"), "evaluation"),
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys(("accelerate", "gguf", "peft", "torch", "transformers", "trl"), "train"),
}
BROUGHT_BY = {"py4j": "pyspark", "huggingface_hub": "datasets"}


@contextmanager
def required() -> Iterator[None]:
    """Raise ConfigError that names the extra to install where the block imports a package that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = BROUGHT_BY.get(module, module)
        if package not in EXTRAS:
            raise
        msg = f"the package {package} is not installed and this needs it: pip install 'raft-spark[{EXTRAS[package]}]'"
        raise ConfigError(msg) from error
