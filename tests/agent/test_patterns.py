"""Tests of what fits a pattern of arguments, and of what must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.agent.patterns import Pattern, fits_any, glob

HOME = str(Path("~").expanduser())
FITS, NEITHER, DOUBT = (True, True), (False, False), (False, True)
"""Whether it is allowed, and whether it is denied or asked about."""


def fits(pattern: Any, argument: Any) -> tuple[bool, bool]:
    one = Pattern(pattern)
    return one.fits(argument, is_cautious=False), one.fits(argument, is_cautious=True)


@pytest.mark.parametrize(
    ("pattern", "argument", "expected"),
    [
        ("/zz/notes/**", "/zz/notes/a/b.txt", FITS),
        ("/zz/notes/**", "/zz/notes", FITS),
        ("/zz/notes/**", "/zz/notes/./a//b/../c", FITS),
        ("/zz/notes/**", "//zz/notes/a", FITS),
        ("/zz/notes/**", "/zz/notesX/a", NEITHER),
        ("/zz/notes/**", "/zz/notes/../secret", NEITHER),
        ("/zz/notes/**", "/zz/notes/a/../../../etc/passwd", NEITHER),
        ("/zz/notes/**", "/zz/NOTES/a", DOUBT),
        ("/zz/notes/**", "notes/a", DOUBT),
        ("/zz/notes/**", "~other/a", DOUBT),
        ("/zz/notes/**", "file:///zz/notes/a", DOUBT),
        ("/zz/notes/**", "/zz/notes/a\0b", DOUBT),
        ("/zz/notes/**", "", DOUBT),
        ("/zz/notes/**", 3, DOUBT),
        ("/zz/notes/**", None, DOUBT),
        ("/zz/notes/**", {"a": "/zz/notes"}, DOUBT),
        ("/zz/*/a", "/zz/b/a", FITS),
        ("/zz/*/a", "/zz/b/c/a", NEITHER),
        ("/zz/*.md", "/zz/a.md", FITS),
        ("/zz/*.md", "/zz/a.md/../b", NEITHER),
        ("/zz/a?", "/zz/ab", FITS),
        ("/zz/a?", "/zz/a", NEITHER),
        ("/zz/a", "/zz/a/", FITS),
        ("/zz/a/", "/zz/a", FITS),
        ("/zz/**/c", "/zz/c", FITS),
        ("/zz/**/c", "/zz/a/b/c", FITS),
        ("/zz/**/b/**", "/zz/a/b/c/b", FITS),
        ("~/notes/**", f"{HOME}/notes/a", FITS),
        ("~/notes/**", "~/notes/a", FITS),
        ("~/notes/**", "~/notes/../a", NEITHER),
        ("~", "~", FITS),
        ("**/.ssh/**", "/zz/.ssh/id", FITS),
        ("**/.ssh/**", ".ssh/id", FITS),
        ("**/.ssh/**", "/zz/a/../.ssh", FITS),
        ("**/.ssh/**", "/zz/.SSH/id", DOUBT),
        ("**/.ssh/**", "/zz/ssh", NEITHER),
        ("/", "/", FITS),
        ("/**", "/anything/at/all", FITS),
    ],
)
def test_paths(pattern: str, argument: Any, expected: tuple[bool, bool]) -> None:
    assert fits(pattern, argument) == expected


def test_links_are_followed_out_of_a_folder_and_into_it(tmp_path: Path) -> None:
    notes, secret = tmp_path / "notes", tmp_path / "secret"
    notes.mkdir()
    secret.mkdir()
    (notes / "out").symlink_to(secret)
    (tmp_path / "alias").symlink_to(notes)
    allowed = f"{tmp_path}/notes/**"
    assert fits(allowed, f"{notes}/out/key") == DOUBT
    assert fits(f"{tmp_path}/secret/**", f"{notes}/out/key") == DOUBT
    assert fits(allowed, f"{notes}/out/../a") == DOUBT  # of tmp_path, for the kernel
    assert fits(allowed, f"{tmp_path}/alias/a") == DOUBT
    assert fits(f"{tmp_path}/alias/**", f"{tmp_path}/alias/a") == FITS
    assert fits(f"{tmp_path}/alias/**", f"{tmp_path}/alias/out/key") == DOUBT


@pytest.mark.parametrize(
    ("pattern", "argument", "expected"),
    [
        ("https://a.org/v1/**", "https://a.org/v1/x?q=1#f", FITS),
        ("https://a.org/v1/**", "https://A.ORG:443/v1", FITS),
        ("https://a.org/v1/**", "https://a.org./v1/x", FITS),
        ("https://a.org/v1/**", "https://a.org/v1/../v2", NEITHER),
        ("https://a.org/v1/**", "https://a.org/v1/%2e%2e/v2", NEITHER),
        ("https://a.org/v1/**", "https://a.org.evil.org/v1/x", NEITHER),
        ("https://a.org/v1/**", "https://evil.org/https://a.org/v1/x", NEITHER),
        ("https://a.org/v1/**", "https://a.org@evil.org/v1/x", NEITHER),
        ("https://a.org/v1/**", "https://user@a.org/v1/x", DOUBT),
        ("https://a.org/v1/**", "https://a.org:8443/v1/x", DOUBT),
        ("https://a.org/v1/**", "http://a.org/v1/x", NEITHER),
        ("https://a.org/v1/**", "https://a.org\\@evil.org/v1/x", DOUBT),
        ("https://a.org/v1/**", "https://a.org/v1/\tx", DOUBT),
        ("https://a.org/v1/**", "https://[bad/v1", DOUBT),
        ("https://a.org/v1/**", "https://", DOUBT),
        ("https://a.org/v1/**", "a.org/v1/x", DOUBT),
        ("https://a.org/v1/**", 3, DOUBT),
        ("https://*.a.org/**", "https://b.a.org/x", FITS),
        ("https://*.a.org/**", "https://evil.org?x=.a.org/x", NEITHER),
        ("https://*.a.org/**", "https://evil.org#.a.org/x", NEITHER),
        ("*://a.org:8080/**", "http://a.org:8080/x", FITS),
        ("https://a.org", "https://a.org/", FITS),
        ("https://a.org", "https://a.org/x", DOUBT),
    ],
)
def test_urls(pattern: str, argument: Any, expected: tuple[bool, bool]) -> None:
    assert fits(pattern, argument) == expected


@pytest.mark.parametrize(
    ("pattern", "argument", "expected"),
    [
        ("main", "main", FITS),
        ("main", "MAIN", DOUBT),
        ("main", "mainline", NEITHER),
        ("SELECT *", "SELECT a/b\nFROM c", FITS),
        ("*", "", FITS),
        ("4*", 42, FITS),
        ("true", True, FITS),
        ("*", None, DOUBT),
        (3, 3, FITS),
        (3, "3", NEITHER),
        (1, True, NEITHER),
        (True, True, FITS),
        (True, {}, DOUBT),
        (0.5, 0.5, FITS),
    ],
)
def test_values(pattern: Any, argument: Any, expected: tuple[bool, bool]) -> None:
    assert fits(pattern, argument) == expected


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (["/zz/a/1", "/zz/b/2"], FITS),
        (["/zz/a/1", "/etc/passwd"], DOUBT),
        (["/etc/passwd"], NEITHER),
        ([], NEITHER),
        ([["/zz/a/1"], "/zz/b"], FITS),
        ("/zz/b/2", FITS),
    ],
)
def test_lists_fit_when_every_item_does_and_are_suspect_when_one_is(
    argument: Any, expected: tuple[bool, bool]
) -> None:
    patterns = [Pattern("/zz/a/**"), Pattern("/zz/b/**")]
    found = (
        fits_any(patterns, argument, is_cautious=False),
        fits_any(patterns, argument, is_cautious=True),
    )
    assert found == expected


def test_hostile_texts_take_no_time() -> None:
    assert not glob("*a" * 30 + "b", "a" * 5000)
    assert fits("/**/" + "a/**/" * 10 + "b", "/" + "a/" * 1000) == NEITHER
