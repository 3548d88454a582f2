"""What a run came to that has ended, for whoever would take it up once more."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

from holdfast.core.canonical import JSON, canonical
from holdfast.core.effect import Encoding
from holdfast.core.payload import pack_text
from holdfast.errors import BadCall
from holdfast.gateway.family import read_tree
from holdfast.gateway.history import read_log
from holdfast.gateway.line import read_payload
from holdfast.store import Readable


async def how_it_ended(store: Readable, asked: Mapping[str, JSON]) -> dict[str, JSON] | None:
    """The answer (`answer`, JSON, or `answer_b64`) of the run that is asked for, on its line; None if it has none.
    Raises BadCall where it is asked for as another agent's, or with another input; Unknown if its answer was pruned."""
    run = str(asked.get("run"))
    branch = f"{run}@{(await read_tree(store, run)).line}"
    opened = await read_log(store, branch)
    ended, started = opened.log.finished, opened.started
    if ended is None or ended.answer is None or started is None:
        return None
    if started.agent != asked.get("agent"):
        raise BadCall(f"this run is one of `{started.agent}`", where=branch, fix="choose another id")
    given = asked.get("input")
    if given is not None:
        text = canonical(given)
        if pack_text(text, given, lambda _digest: False).payload.digest != started.input.digest:
            raise BadCall("this run exists, with another input", where=branch, fix="leave the input out")
    data = await read_payload(store, ended.answer)
    if ended.answer.encoding is Encoding.JSON:
        return {"answer": json.loads(data)}
    return {"answer_b64": base64.b64encode(data).decode()}
