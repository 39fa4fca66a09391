"""A trained Llama's safetensors -> one GGUF file in 8 bits (Q8_0), which the embedded engine serves.

    python gguf_export.py FOLDER --like SOURCE.gguf --to FILE

Tokenizer, chat template and shape are copied from the file that the student came as; only the weights are new. GGUF has the
rows of Llama's query and key projections in another order, since llama.cpp rotates neighbouring numbers and transformers
the two halves of a head. What was written is read back and held against the weights.
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
BLOCK = 32  # numbers of Q8_0 that share a scale, which is the largest of them / 127
MOSTLY_Q8 = 7  # general.file_type, llama.cpp's LLAMA_FTYPE_MOSTLY_Q8_0
OWN = ("GGUF.", "general.architecture", "general.file_type")  # what the writer says by itself, and what changes
Weights = npt.NDArray[np.float32]
Reader = Any  # gguf.GGUFReader


def main() -> None:
    """Convert one folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--like", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    asked = parser.parse_args()
    source, part = GGUFReader(asked.like), asked.to.with_suffix(".part")
    write(source, asked.folder, part)
    verify(source, asked.folder, part)
    part.replace(asked.to)
    print(f"as one file: {asked.to}, {asked.to.stat().st_size / 1e6:.0f} MB", flush=True)  # noqa: T201 - a script's say


def write(source: Reader, folder: Path, to: Path) -> None:
    """Write what the source says of itself, and a folder's weights under the source's names."""
    if (architecture := source.get_field("general.architecture").contents()) != "llama":
        sys.exit(f"the student is a {architecture}; only Llamas are written as GGUF")
    writer = GGUFWriter(to, architecture)
    for field in source.fields.values():
        if not field.name.startswith(OWN):
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
    """Read the file back: no weight may be further off than half a step of its block, and what a 16-bit scale takes."""
    there = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(written).tensors}
    for name, weights in named_weights(source, folder):
        off = np.abs(there.pop(name).reshape(weights.shape) - weights)
        if weights.ndim > 1:
            step = np.abs(weights).reshape(-1, BLOCK).max(axis=1) / 127
            off = off.reshape(-1, BLOCK) / np.maximum(step, 1e-6)[:, None]
        if not off.max() < (0.6 if weights.ndim > 1 else 1e-6):
            sys.exit(f"{written}: {name} is not what was written, off by {off.max():g} steps")
    if there:
        sys.exit(f"{written} holds more than the student: {sorted(there)}")


def named_weights(source: Reader, folder: Path) -> Iterator[tuple[str, Weights]]:
    """Yield each tensor's name in GGUF and its weights in GGUF's order, as the source has them."""
    blocks = source.get_field("llama.block_count").contents()
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, blocks)
    heads = {part: source.get_field(f"llama.attention.head_count{more}").contents() for part, more in HEADS.items()}
    read = {names.get_name(key, (".weight",)): load for key, load in tensor_loaders(folder).items()}
    shapes = {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in source.tensors}
    if set(read) != set(shapes):
        sys.exit(f"{folder} is no student of the source: it differs in {sorted(set(read) ^ set(shapes), key=str)}")
    for name, load in read.items():
        weights = load()
        if weights.shape != shapes[name]:
            sys.exit(f"{folder} is no student of the source: {name} has shape {weights.shape}, there {shapes[name]}")
        part = name.split(".")[-2]
        yield name, interleave_heads(weights, heads[part]) if part in heads else weights


HEADS = {"attn_q": "", "attn_k": "_kv"}


def tensor_loaders(folder: Path) -> dict[str, Callable[[], Weights]]:
    """Return, by name, how to load each tensor of a folder, one at a time."""
    found: dict[str, Callable[[], Weights]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        file = safe_open(path, "pt")
        found |= {key: lambda file=file, key=key: file.get_tensor(key).float().numpy() for key in file.keys()}  # noqa: SIM118
    return found


def interleave_heads(weights: Weights, heads: int) -> Weights:
    """Put the rows of each head from halves, (2, size/2), to neighbours, (size/2, 2)."""
    return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)


if __name__ == "__main__":
    main()
