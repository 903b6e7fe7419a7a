"""A GGUF file becomes a folder that transformers trains from: bfloat16 safetensors, tokenizer, configuration.

It runs in a process of its own, without network: the file may be anybody's, and reading GGUF keeps Python
busy for ten seconds and more, which would freeze the panels of the kernel that asked for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftkit.errors import ModelError
from ftkit.models.cache import Progress
from ftkit.models.isolation import IsolatedError, run_apart
from ftkit.models.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def convert_apart(gguf: Path, folder: Path, progress: Progress, text: str) -> None:
    """Convert in a child process; `progress` is called a few times a second and may raise to cancel.

    Parameters
    ----------
    gguf
        The GGUF file.
    folder
        An existing folder that gets the files.
    progress, text
        What to tell meanwhile.

    Raises
    ------
    ModelError
        Where the file cannot be read as a model.
    """
    size = gguf.stat().st_size / 1e6
    try:
        run_apart("ftkit.models.convert", [str(gguf), str(folder)], progress, text, 12 * size)
    except IsolatedError as error:
        raise ModelError(
            f"{gguf.name} could not be read as a model. The reader says: {error}",
            "Check that the file is whole and of an architecture that transformers reads from GGUF; or "
            "use the model's safetensors.",
        ) from None


def convert(gguf: Path, folder: Path) -> None:
    """Read a GGUF file and write `model.safetensors`, the tokenizer and the configuration to `folder`."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    unpack: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):
        # Newer releases keep weights packed where they have a kernel for them; packed ones cannot be trained.
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with quiet():
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.bfloat16, **options, **unpack)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **options)
        repair_tokenizer(tokenizer, gguf)

        # The reader leaves a quantization config behind that makes save_pretrained refuse in some releases:
        # a fresh model from the plain configuration takes the weights over.
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        config.__dict__.pop("_model_name_or_path", None)
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.load_state_dict(read.state_dict(), assign=True)
        model.tie_weights()
        model.generation_config = transformers.GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def repair_tokenizer(tokenizer: PreTrainedTokenizerFast, gguf: Path) -> None:
    """Put back what transformers' GGUF reader leaves out of a tokenizer.

    SmolLM cuts numbers into digits before anything else; the reader knows the file's pre-tokenizer by
    no name and splits as GPT-2 does, which gives other tokens where several spaces stand before a number.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    fields = GGUFReader(gguf).fields
    name = fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in fields else None
    if name == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    context = next((field for key, field in fields.items() if key.endswith(".context_length")), None)
    if context is not None:
        tokenizer.model_max_length = int(context.contents())


def prepare() -> None:
    """Import what `main` needs."""
    with quiet():
        import torch  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401


def main(gguf: str, folder: str) -> None:
    """What the closed-in process does."""
    convert(Path(gguf), Path(folder))
