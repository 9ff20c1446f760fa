"""Server and key are found where the `fetchml` command finds them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Lab
from fetchml import ConfigurationError, FetchML
from fetchml._settings import load

KEY = "fml_abcdefghijkl_one"
OTHER = "fml_abcdefghijkl_two"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    directory = tmp_path / "fetchml"
    directory.mkdir()
    return directory


def test_the_profile_that_up_wrote_is_used(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(lab.home))
    with FetchML() as client:
        assert client.url == lab.url
        assert client.queue().workers == 1


def test_later_places_win(config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (config / "profile.toml").write_text(f'url = "http://one:1/"\napi_key = "{KEY}"\n')
    assert (load().url, load().api_key) == ("http://one:1", KEY)
    (config / "config.toml").write_text(f'[client]\napi_key = "{OTHER}"\n')
    assert load().api_key == OTHER
    monkeypatch.setenv("FETCHML_URL", "http://two:2")
    monkeypatch.setenv("FETCHML_API_KEY", KEY)
    assert (load().url, load().api_key) == ("http://two:2", KEY)
    key_file = tmp_path / "key"
    key_file.write_text(OTHER + "\n")
    assert load(key_file=str(key_file)).api_key == OTHER
    assert load("http://three:3", KEY).url == "http://three:3"
    assert KEY not in repr(load("http://three:3", KEY))


def test_a_key_goes_only_to_its_server(config: Path) -> None:
    (config / "profile.toml").write_text(f'url = "http://127.0.0.1:9101"\napi_key = "{KEY}"\n')
    assert load("http://localhost:9101/").api_key == KEY
    with pytest.raises(ConfigurationError, match="no API key for the server at http://elsewhere:1"):
        load("http://elsewhere:1")


def test_what_is_missing_or_wrong_is_said(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="no server is configured") as nothing:
        load()
    assert "fetchml up" in (nothing.value.hint or "")
    with pytest.raises(ConfigurationError, match="not well formed"):
        load(api_key="secret")
    with pytest.raises(ConfigurationError, match="key file /nowhere: No such file"):
        load(key_file="/nowhere")
    for url in ("127.0.0.1:9101", "ftp://x", "http://user:pw@x", "http://x/?key=pw", "http://"):
        with pytest.raises(ConfigurationError) as wrong:
            FetchML(url, KEY)
        assert "pw" not in str(wrong.value)
    (config / "profile.toml").write_text(f'url = "http://one:1"\napi_key = {KEY}\n')
    with pytest.raises(ConfigurationError, match="it is not TOML") as broken:
        load()
    assert KEY not in str(broken.value)
    (config / "profile.toml").unlink()
    monkeypatch.setenv("FETCHML_CONFIG", str(config / "missing.toml"))
    with pytest.raises(ConfigurationError, match="does not exist"):
        load()
