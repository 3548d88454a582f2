"""Each known attack on a log (docs/security.md), as a change of what the second hand wrote, and who finds it."""

from collections.abc import Callable

from tests.core.bundle_writer import OTHER_SEED, Row, Story, Writer, base64, body

RUNS = ("invoice-77@main", "köln@main", "invoice-78@main", "invoice-77@b2")


def sample() -> Writer:
    """Twenty-four entries of three runs, with heads over 8, 16 and 22 of them."""
    log = Writer()
    first, second, third = (Story(log, branch) for branch in RUNS[:3])
    for story in (first, second, third):
        story.claim()
        story.start()
    first.decide()
    second.read()
    log.publish()  # 8
    sent = first.intend()
    held = second.ask()
    third.decide()
    first.seal(sent)
    second.approve(held)
    third.draw()
    second.intend(held)
    third.sleep()
    log.publish()  # 16
    for story in (first, third, first, third, first, third):
        story.read()
    log.publish()  # 22
    first.finish()
    third.finish()
    return log


def edit(log: Writer) -> Writer:
    log.rows[9].body = log.rows[9].body.replace(b"irreversible", b"reversible")
    return log


def edit_and_chain(log: Writer) -> Writer:
    edit(log).rechain()
    return log


def swap(log: Writer) -> Writer:
    assert log.rows[10].branch != log.rows[11].branch
    log.rows[10], log.rows[11] = log.rows[11], log.rows[10]
    return log


def cut(log: Writer) -> Writer:
    del log.rows[-5:]
    return log


def cut_with_heads(log: Writer) -> Writer:
    del log.rows[17:], log.heads[2:]
    return log


def restore_older(log: Writer) -> Writer:
    del log.rows[12:], log.heads[1:]
    return log


def delete_run(log: Writer) -> Writer:
    log.rows = [row for row in log.rows if row.branch != RUNS[1]]
    return log


def delete_run_and_heads(log: Writer) -> Writer:
    delete_run(log).heads.clear()
    return log


def insert_back_dated(log: Writer) -> Writer:
    forged = body("signal", name="go", value=log.payload(b"payload 0"), by="mallory")
    log.rows.insert(9, Row(RUNS[0], 0, 0, log.rows[8].at_ms, b"", forged))
    log.rechain()
    return log


def other_key(log: Writer) -> Writer:
    edit_and_chain(log).seed = OTHER_SEED
    log.republish(8, 16, 22)
    return log


def other_key_under_our_name(log: Writer) -> Writer:
    """The heads carry our key's id, but were signed with another key."""
    ours = base64(log.key_id + bytes(64))[:5]
    other_key(log)
    theirs = base64(log.key_id + bytes(64))[:5]
    log.heads = [head.replace(f" {theirs}", f" {ours}") for head in log.heads]
    log.seed = Writer().seed
    return log


def stolen_key(log: Writer) -> Writer:
    edit_and_chain(log).republish(8, 16, 22)
    return log


# attack: what is found without an anchor (rule, entry), what with one
ATTACKS: dict[Callable[[Writer], Writer], tuple[tuple[str, int | None] | None, str | None]] = {
    edit: (("chain", 9), "chain"),
    edit_and_chain: (("root", 8), "root"),
    swap: (("root", 8), "root"),
    cut: (("shorter", 19), "shorter"),
    cut_with_heads: (None, "anchor"),
    restore_older: (None, "anchor"),
    delete_run: (("root", 0), "root"),
    delete_run_and_heads: (("unsigned", 0), "anchor"),
    insert_back_dated: (("root", 8), "root"),
    other_key: (("signature", None), "signature"),
    other_key_under_our_name: (("signature", None), "signature"),
    stolen_key: (None, "anchor"),
}
