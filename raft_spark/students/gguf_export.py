"""Convert a trained Llama from safetensors to one GGUF file in 8 bits (Q8_0), which the embedded engine serves.

    python gguf_export.py FOLDER --like SOURCE.gguf --to FILE

The tokenizer, the chat template and the shapes are copied from SOURCE.gguf, the file from which the training started;
only the weights are new. GGUF orders the rows of Llama's query and key projections differently: llama.cpp rotates
neighbouring numbers, transformers the two halves of a head. The file is read back and compared with the weights before
it gets its name.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from safetensors import safe_open

Q8, F32 = GGMLQuantizationType.Q8_0, GGMLQuantizationType.F32
BLOCK = 32  # numbers of Q8_0 that share one scale: their largest absolute value / 127
MOSTLY_Q8 = 7  # general.file_type, llama.cpp's LLAMA_FTYPE_MOSTLY_Q8_0
NOT_COPIED = ("GGUF.", "general.architecture", "general.file_type")  # fields that the writer sets itself or that change
DESCRIPTION = "Convert a trained Llama from safetensors to one GGUF file in 8 bits."
Weights = npt.NDArray[np.float32]
Reader = Any  # gguf.GGUFReader
HEADS = {"attn_q": "", "attn_k": "_kv"}  # tensor -> suffix of the field that has its number of heads


def main() -> None:
    """Convert one folder: write a part file, verify it, rename it."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("folder", type=Path, help="the folder of the trained student")
    parser.add_argument("--like", type=Path, required=True, help="the GGUF file from which the training started")
    parser.add_argument("--to", type=Path, required=True, help="the GGUF file to write")
    arguments = parser.parse_args()
    source, part = GGUFReader(arguments.like), arguments.to.with_suffix(".part")
    write(source, arguments.folder, part)
    verify(source, arguments.folder, part)
    part.replace(arguments.to)
    print(f"wrote {arguments.to}, {arguments.to.stat().st_size / 1e6:.0f} MB", flush=True)  # noqa: T201 - a script's output


def write(source: Reader, folder: Path, to: Path) -> None:
    """Write the metadata of the source and the weights of a folder under the tensor names of the source."""
    if (architecture := source.get_field("general.architecture").contents()) != "llama":
        sys.exit(f"the student is a {architecture}; only a llama can be written as GGUF")
    writer = GGUFWriter(to, architecture)
    for field in source.fields.values():
        if not field.name.startswith(NOT_COPIED):
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(MOSTLY_Q8)
    for name, weights in named_weights(source, folder):
        kind = Q8 if weights.ndim > 1 else F32
        writer.add_tensor(name, quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def verify(source: Reader, folder: Path, written: Path) -> None:
    """Read the file back and exit if a weight differs by more than 0.6 quantization steps: half a step, and a margin
    for the 16-bit scale.
    """
    written_weights = {
        tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(written).tensors
    }
    for name, weights in named_weights(source, folder):
        difference = np.abs(written_weights.pop(name).reshape(weights.shape) - weights)
        if weights.ndim > 1:
            step = np.abs(weights).reshape(-1, BLOCK).max(axis=1) / 127
            difference = difference.reshape(-1, BLOCK) / np.maximum(step, 1e-6)[:, None]
        if not difference.max() < (0.6 if weights.ndim > 1 else 1e-6):
            sys.exit(f"{written}: {name} differs from the trained weights by {difference.max():g} steps")
    if written_weights:
        sys.exit(f"{written} has tensors that the student lacks: {sorted(written_weights)}")


def named_weights(source: Reader, folder: Path) -> Iterator[tuple[str, Weights]]:
    """Yield (name, weights) of each tensor, named and ordered as in GGUF.

    Exits when a name or a shape differs from the source's.
    """
    blocks = source.get_field("llama.block_count").contents()
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, blocks)
    heads = {part: source.get_field(f"llama.attention.head_count{suffix}").contents() for part, suffix in HEADS.items()}
    loaders = {names.get_name(key, (".weight",)): load for key, load in tensor_loaders(folder).items()}
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in source.tensors}
    if set(loaders) != set(shapes):
        sys.exit(
            f"{folder} was not trained from the source: the tensors differ, {sorted(set(loaders) ^ set(shapes), key=str)}"
        )
    for name, load in loaders.items():
        weights = load()
        if weights.shape != shapes[name]:
            sys.exit(
                f"{folder} was not trained from the source: {name} has shape {weights.shape}, the source {shapes[name]}"
            )
        part = name.split(".")[-2]
        yield name, interleave_heads(weights, heads[part]) if part in heads else weights


def tensor_loaders(folder: Path) -> dict[str, Callable[[], Weights]]:
    """Return by name a function that loads one tensor of the folder, so that one tensor at a time is in memory."""
    found: dict[str, Callable[[], Weights]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = safe_open(path, "pt")
        found |= {key: lambda file=file, key=key: file.get_tensor(key).float().numpy() for key in file.keys()}  # noqa: SIM118
    return found


def interleave_heads(weights: Weights, heads: int) -> Weights:
    """Reorder the rows of each head from two halves, (2, size/2), to neighbouring pairs, (size/2, 2)."""
    return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


if __name__ == "__main__":
    main()
