"""Files of tokens: kept whole, kept apart, and no harm where they are damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken

from tools.errors import ConfigurationError
from tools.mcp_client.token_store import Challenge, Grant, ServerTokens, TokenStore

URL, OTHER_URL = "https://a.example/mcp", "https://a.example/other"


def grant(issuer: str, token: str = "t", expires_at: float | None = None) -> Grant:
    client = OAuthClientInformationFull(client_id="c", client_secret="s", issuer=issuer)
    tokens = OAuthToken(access_token=token, refresh_token="r", scope="read")
    return Grant(issuer, client, tokens, expires_at)


def test_what_is_kept_comes_back_in_another_process(tmp_path: Path) -> None:
    kept = grant("https://i.example/", expires_at=1e12)
    TokenStore(tmp_path / "tokens").save_grant(URL, kept)
    again = TokenStore(tmp_path / "tokens").load(URL)
    assert again == ServerTokens(kept.issuer, {kept.issuer: kept})
    assert again.grant == kept
    assert kept.is_usable


def test_grants_are_apart_by_resource_and_issuer(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    first, second = grant("https://one.example", "t1"), grant("https://two.example", "t2")
    store.save_grant(URL, first)
    store.save_grant(URL, second)
    store.save_grant(OTHER_URL, first)
    assert store.load(URL) == ServerTokens(
        second.issuer, {first.issuer: first, second.issuer: second}
    )
    assert store.load("HTTPS://A.Example/mcp#top").grant == second
    assert store.load(OTHER_URL).grant == first
    assert store.load("https://b.example/mcp") == ServerTokens()
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_a_challenge_is_kept_until_it_is_answered(tmp_path: Path) -> None:
    store, challenge = TokenStore(tmp_path), Challenge("https://a.example/where", "read")
    store.save_challenge(URL, challenge)
    assert store.load(URL) == ServerTokens(challenge=challenge)
    store.save_grant(URL, grant("https://i.example"))
    assert store.load(URL).challenge is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"issuer": 1, "grants": [{}], "challenge": null}', "\xff"]
)
def test_a_damaged_file_counts_as_none_and_is_written_anew(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = TokenStore(tmp_path)
    store.save_grant(URL, grant("https://i.example"))
    (path,) = tmp_path.iterdir()
    path.write_text(text, encoding="latin-1")
    assert store.load(URL) == ServerTokens()
    assert "cannot be read" in caplog.messages[0]
    store.save_grant(URL, grant("https://i.example"))
    assert store.load(URL).grant is not None


def test_what_was_forgotten_is_gone(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.save_grant(URL, grant("https://i.example"))
    assert store.forget(URL)
    assert not store.forget(URL)
    assert store.load(URL) == ServerTokens()


def test_a_folder_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("a file", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="cannot be kept in"):
        TokenStore(tmp_path / "tokens").save_grant(URL, grant("https://i.example"))


def test_an_expired_token_is_not_usable_and_one_without_a_time_is() -> None:
    assert not grant("https://i.example", expires_at=1.0).is_usable
    assert grant("https://i.example").is_usable
