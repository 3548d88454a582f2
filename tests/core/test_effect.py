"""Identity and key, against vectors reckoned here."""

import hashlib

from holdfast.core.effect import identity_of, key_of, legible


def test_an_identity_is_the_tool_the_arguments_and_the_label() -> None:
    expected = hashlib.sha256(b'holdfast/identity/1\0["mail.send",{"invoice":"77"},null]').digest()
    assert identity_of("mail.send", b'{"invoice":"77"}', None) == expected
    again = hashlib.sha256(b'holdfast/identity/1\0["mail.send",{"invoice":"77"},"reminder"]').digest()
    assert identity_of("mail.send", b'{"invoice":"77"}', "reminder") == again


def test_a_key_is_derived_from_run_identity_and_number() -> None:
    identity = bytes(32)
    expected = hashlib.sha256(b"holdfast/key/1\0" + b"run-1" + b"\0" + identity + (3).to_bytes(8, "big")).hexdigest()
    assert key_of("run-1", identity, 3) == expected[:32]


def test_a_legible_text_can_always_be_written() -> None:
    assert legible("a\ud800b").encode() == b"a?b"
    assert len(legible("x" * 9_000)) == 4_000
