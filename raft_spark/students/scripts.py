"""Locate the scripts that run in another Python environment. Each is one file that imports nothing of raft_spark."""

from pathlib import Path

_HERE = Path(__file__).parent
SFT_SCRIPT = _HERE / "sft_script.py"  # in the environment that trains, and in SageMaker's container
GGUF_EXPORT = _HERE / "gguf_export.py"  # in the environment that trains
SAGEMAKER_LAUNCHER = _HERE / "sagemaker_launcher.py"  # in the environment of the SageMaker SDK
