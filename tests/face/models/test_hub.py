"""Repositories on the Hugging Face hub: which files are fetched, and what errors say. No network is needed."""

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError, RepositoryNotFoundError

from face.models import hub
from face.models.pretrained import load_pretrained, save_pretrained
from face.models.registry import create_model


def error_of(kind):
    """Without the HTTP response that such errors carry."""
    error = kind.__new__(kind)
    Exception.__init__(error, "the reason\nand more")
    return error


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder in the place of the hub; returns what was asked of it."""
    asked = []

    def fetch(name, file):
        asked.append((name, file))
        if not (tmp_path / file).is_file():
            raise error_of(RemoteEntryNotFoundError)
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    return asked


def test_only_weights_and_configs_are_fetched(repository, tmp_path):
    model = create_model("vit_tiny", image_hw=(16, 16), depth=1)
    save_pretrained(model, tmp_path)
    (tmp_path / "wrapper.py").write_text("raise SystemExit('run')")
    loaded = load_pretrained("owner/some.model")
    assert loaded.config == model.config
    assert {name for name, _ in repository} == {"owner/some.model"}
    assert [file for _, file in repository if (tmp_path / file).exists()] == ["config.json", "model.safetensors"]
    assert not any(file.endswith(".py") for _, file in repository)


def test_weights_in_a_folder_of_the_repository(repository, tmp_path):
    (tmp_path / "pretrained_model").mkdir()
    (tmp_path / "pretrained_model" / "model.pt").write_bytes(b"")
    assert hub.download("a/b", ["model.pt", "pretrained_model/model.pt"], []) == tmp_path


def test_a_repository_without_weights(repository):
    with pytest.raises(FileNotFoundError, match=r"owner/name: the repository .* has none of model\.safetensors, model"):
        load_pretrained("owner/name")


@pytest.mark.parametrize("error", [error_of(LocalEntryNotFoundError), OSError("the reason")], ids=["hub", "system"])
def test_no_way_to_the_hub(error, monkeypatch):
    def fetch(name, file):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    message = r"owner/name: no such file or folder here, and the .* hub cannot be reached \(the reason\); download"
    with pytest.raises(ConnectionError, match=message):
        load_pretrained("owner/name")


def test_no_such_repository(monkeypatch):
    def fetch(name, file):
        raise error_of(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    with pytest.raises(FileNotFoundError, match="owner/name: no such file or folder here, and no such repository"):
        load_pretrained("owner/name")


@pytest.mark.parametrize("source", ["model.pt", "runs/a.pt", "a/b/c", "/owner/name", "owner/", "../name", "a/b.ckpt"])
def test_paths_are_no_repositories(source, repository):
    with pytest.raises(FileNotFoundError, match=r"no such file or folder$"):
        load_pretrained(source)
    assert not repository
