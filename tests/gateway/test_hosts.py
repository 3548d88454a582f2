"""A host has one spelling, and what has two is refused."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import BadCall
from holdfast.gateway.hosts import canonical_host, is_address, origin_of, take_apart
from tests.examples import examples

ONE_FORM = {
    "Example.COM": "example.com",
    "example.com.": "example.com",
    "bücher.example": "xn--bcher-kva.example",
    "XN--BCHER-KVA.example": "xn--bcher-kva.example",
    "a_b.example": "a_b.example",
    "127.0.0.1": "127.0.0.1",
    "127.0.0.1.": "127.0.0.1",
    "[2001:DB8:0:0::1]": "2001:db8::1",
    "localhost": "localhost",
}

TWO_FORMS = {
    "decimal": "2130706433",
    "hexadecimal": "0x7f000001",
    "hexadecimal parts": "0x7f.0.0.1",
    "octal": "0177.0.0.1",
    "leading zeros": "127.000.000.001",
    "short": "127.1",
    "three parts": "127.0.1",
    "one number": "0",
    "too many parts": "1.2.3.4.5",
    "too large": "256.1.1.1",
    "circled digits": "①②⑦.⓪.⓪.①",
    "full-width digits": "１２７.０.０.１",
    "Arabic digits": "١٢٧.٠.٠.١",
    "full-width letters": "ｅｘａｍｐｌｅ.com",
    "ideographic dots": "example。com",
    "sharp s": "straße.example",
    "Kelvin sign": "\u212belvin.example",
    "zero-width joiner": "exa\u200dmple.com",
    "soft hyphen": "exa\u00admple.com",
    "two last dots": "example.com..",
    "empty label": "a..b",
    "only a dot": ".",
    "nothing": "",
    "user": "user@example.com",
    "port": "example.com:80",
    "bare IPv6": "::1",
    "IPv6 zone": "[fe80::1%eth0]",
    "IPvFuture": "[v1.fe80::a]",
    "unclosed bracket": "[::1",
    "blank": "exam ple.com",
    "tab": "example.com\t",
    "newline": "example.com\n.evil.test",
    "NUL": "example.com\x00.evil.test",
    "slash": "example.com/evil",
    "backslash": "example.com\\evil",
    "percent": "example%2ecom",
    "question mark": "example.com?evil",
    "fragment": "example.com#evil",
    "leading hyphen": "-example.com",
    "long label": f"{'a' * 64}.com",
    "long name": ".".join(["a" * 60] * 5),
    "lone surrogate": "ex\ud800.com",
}


@pytest.mark.parametrize("text", ONE_FORM)
def test_a_host_has_one_form(text: str) -> None:
    assert canonical_host(text) == ONE_FORM[text]


@pytest.mark.parametrize("which", TWO_FORMS)
def test_a_host_that_could_be_read_in_two_ways_is_refused(which: str) -> None:
    with pytest.raises(BadCall, match="is no host"):
        canonical_host(TWO_FORMS[which])


@pytest.mark.parametrize(
    "url",
    [
        "https://user@example.com/",
        "https://example.com@evil.test/",
        "https://example.com\\@evil.test/",
        "https:example.com/",
        "https:///example.com/",
        "//example.com/",
        "/path",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "https://example.com:0/",
        "https://example.com:65536/",
        "https://example.com:８０/",
        "https://example.com:80:81/",
        "https://example.com:/",
        "https://example.com/a\\b",
        "https://example.com/ b",
        "https://example.com/\r\nx: y",
        "https://example.com/#part",
        "https://[::1/",
        "https://[::1]x/",
        "",
    ],
)
def test_a_url_that_parsers_disagree_about_is_refused(url: str) -> None:
    with pytest.raises(BadCall):
        take_apart(url)


@pytest.mark.parametrize(
    ("url", "origin", "path", "query"),
    [
        ("https://Example.com", "https://example.com", "/", None),
        ("HTTPS://example.com:443/a?b=c", "https://example.com", "/a", "b=c"),
        ("http://example.com:443/", "http://example.com:443", "/", None),
        ("http://[::1]:8080/?", "http://[::1]:8080", "/", ""),
    ],
)
def test_a_url_is_taken_apart_once(url: str, origin: str, path: str, query: str | None) -> None:
    found, at, asked = take_apart(url)
    assert (str(found), at, asked) == (origin, path, query)


def test_the_port_of_a_scheme_is_no_other_origin() -> None:
    assert origin_of("https", "a.example") == origin_of("https", "A.example.", 443)
    assert origin_of("https", "a.example") != origin_of("http", "a.example", 443)


hostlike = st.text(
    alphabet=st.one_of(st.sampled_from("aAzZ019.-_:[]%@/\\?#x ①０١。．｡ßKéｅ\u200d\u00ad\x00\t"), st.characters()),
    max_size=30,
)


@settings(max_examples=examples(60), deadline=None)
@given(hostlike)
def test_the_one_form_of_a_host_is_its_own_one_form(text: str) -> None:
    try:
        host = canonical_host(text)
    except BadCall:
        return
    assert host.isascii()
    assert host == host.lower()
    assert not set(host) & set("/\\?#@% \t\r\n\x00")
    if ":" in host:
        assert str(ipaddress.IPv6Address(host)) == host
    else:
        assert canonical_host(host) == host


@settings(max_examples=examples(60), deadline=None)
@given(hostlike)
def test_what_the_system_takes_for_an_address_is_one_here_or_is_refused(text: str) -> None:
    """`inet_aton` reads every odd spelling that resolvers read."""
    import socket

    try:
        host = canonical_host(text)
    except BadCall:
        return
    try:
        packed = socket.inet_aton(host)
    except OSError:
        return
    assert is_address(host)
    assert socket.inet_ntoa(packed) == host


@settings(max_examples=examples(60), deadline=None)
@given(st.text(alphabet="htps:/@\\?#.[]%aA1① \t", max_size=40))
def test_taking_a_url_apart_is_total(rest: str) -> None:
    try:
        origin, path, query = take_apart(f"https://{rest}")
    except BadCall:
        return
    assert canonical_host(f"[{origin.host}]" if ":" in origin.host else origin.host) == origin.host
    assert path.startswith("/")
    again = f"{origin}{path}" + ("" if query is None else f"?{query}")
    assert take_apart(again) == (origin, path, query)
