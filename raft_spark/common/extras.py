"""Name the extra of raft-spark to install when an optional package, such as pyspark, is missing."""

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
DEPENDENCY_OF = {"py4j": "pyspark", "huggingface_hub": "datasets"}


@contextmanager
def required() -> Iterator[None]:
    """Raise ConfigError that names the extra to install when the block imports an optional package that is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        package = DEPENDENCY_OF.get(module, module)
        if package not in EXTRAS:
            raise
        msg = f"the package {package} is needed and not installed; install it with: pip install 'raft-spark[{EXTRAS[package]}]'"
        raise ConfigError(msg) from error
