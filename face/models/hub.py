"""Files of a model's repository on the Hugging Face hub. Weights and configs are fetched, code is not."""

import re
from collections.abc import Sequence
from pathlib import Path

__all__ = ["download", "is_hub_id"]


def is_hub_id(source: str | Path) -> bool:
    """Whether a text can be a repository's id, owner/name, and is not plainly the name of a file."""
    if not isinstance(source, str) or source.endswith((".pt", ".pth", ".ckpt", ".bin", ".safetensors")):
        return False
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) is not None


def download(repository: str, weights: Sequence[str], configs: Sequence[str]) -> Path:
    """The folder in the hub's cache with the first of `weights` that the repository has, and its configs.

    Args:
        repository: owner/name.
        weights, configs: paths in the repository. Nothing else is fetched.

    Raises:
        FileNotFoundError: the hub has no such repository (that may be read), or it has none of `weights`.
        ConnectionError: the hub cannot be reached, and the files are not in its cache.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def fetch(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(repository, file))
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"{repository}: no such file or folder here, and no such repository on the Hugging Face hub (or one "
                "that needs a login)"
            ) from error
        except LocalEntryNotFoundError as error:
            raise _unreachable(repository, error) from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, OSError) as error:
            raise _unreachable(repository, error) from error

    for file in configs:
        fetch(file)
    for file in weights:
        found = fetch(file)
        if found is not None:
            return found.parents[file.count("/")]
    raise FileNotFoundError(f"{repository}: the repository on the Hugging Face hub has none of {', '.join(weights)}")


def _unreachable(repository: str, error: Exception) -> ConnectionError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ConnectionError(
        f"{repository}: no such file or folder here, and the Hugging Face hub cannot be reached ({reason}); download "
        "the repository where it can, and give the folder"
    )
