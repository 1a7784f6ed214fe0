from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import UserError
from serve.settings import TOKENS_VARIABLE, Limits, ModelCard, Owner, ServeSettings, read_owners
from serve.uploads import _allowed

CARD = ModelCard(
    name="m",
    fingerprint="f",
    segment_length=9,
    fps=8,
    height=32,
    width=48,
    num_inference_steps=2,
    guidance_scale=1.0,
    size_multiple=16,
)
LONG = "0123456789abcdef"


def test_owners_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# who\nada {LONG}a 2 5\n\nbob {LONG}b\n")
    assert read_owners(str(file)) == (
        Owner(name="ada", token=f"{LONG}a", concurrency=2, priority=5),
        Owner(name="bob", token=f"{LONG}b"),
    )
    assert LONG not in repr(read_owners(str(file)))


def test_owners_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_owners(None) == ()
    monkeypatch.setenv(TOKENS_VARIABLE, f"ada {LONG}")
    assert read_owners(None)[0].name == "ada"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ada", "line 1: give name, token"),
        ("ada short", "line 1: the token is too short"),
        (f"ada {LONG} many", "line 1: give name, token"),
        (f"a/b {LONG}", "line 1: give name, token"),
        (f"ada {LONG}\nbob {LONG}", "a token occurs twice"),
        ("# nobody", "would let nobody in"),
    ],
)
def test_tokens_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "tokens").write_text(text)
    with pytest.raises(UserError, match=message):
        read_owners(str(tmp_path / "tokens"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"home": "memory://x"}, "--home memory://"),
        ({"home": "ftp://x"}, "--home"),
        ({"home": "s3://x"}, "give --database"),
        ({"replicas": (2, 1)}, "--replicas 2:1"),
        ({"lease_seconds": 0.1}, "--lease-seconds"),
        ({"url_prefixes": ("https://example.org",)}, "--allow-url"),
        ({"url_prefixes": ("file:///etc/",)}, "--allow-url"),
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServeSettings(**{"home": "out", "card": CARD, **changes})


def test_limits_are_positive() -> None:
    with pytest.raises(UserError, match="limit queued is 0"):
        Limits(queued=0)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://example.org/videos/a.mp4", True),
        ("https://EXAMPLE.org/videos/a.mp4", True),
        ("https://example.org/other/a.mp4", False),
        ("https://example.org/videos/../other/a.mp4", False),
        ("https://example.org/videos/%2e%2e/other/a.mp4", False),
        ("http://example.org/videos/a.mp4", False),
        ("https://example.org:8443/videos/a.mp4", False),
        ("https://example.org.evil.com/videos/a.mp4", False),
        ("https://example.org@evil.com/videos/a.mp4", False),
        ("https://evil.com\\@example.org/videos/a.mp4", False),
        ("https://example.org:x/videos/", False),
        ("file:///videos/a.mp4", False),
        ("/videos/a.mp4", False),
    ],
)
def test_only_urls_that_begin_as_allowed(url: str, allowed: bool) -> None:
    assert _allowed(url, ("https://example.org/videos/",)) is allowed
