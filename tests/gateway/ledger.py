"""A system outside for crowds: it keeps what was done in memory, and counts.

`python -m tests.gateway.ledger` prints its port, and ends when its standard input does.

Rules
1. Nothing is deduplicated but `put`, by its key: whatever else is sent twice is counted twice.
2. The first part of each path is anybody's: a configuration may stand for many.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections import defaultdict
from typing import Any

from aiohttp import web


class Ledger:
    def __init__(self) -> None:
        self._done: dict[str, list[list[str]]] = defaultdict(list)  # by `KIND/NAME`: key and answer of each that lives
        self._ever: dict[str, list[str]] = defaultdict(list)  # by `KIND/NAME`: the keys of all that changed anything
        self._chance = random.Random(7)

    async def do(self, request: web.Request) -> web.Response:
        what, name, key = request.match_info["what"], request.match_info["name"], request.headers["idempotency-key"]
        await asyncio.sleep(self._chance.uniform(0, 0.02))
        place = f"{what}/{name}"
        known = [answer for known, answer in self._done[place] if known == key]
        if not (what == "put" and known):
            self._ever[place].append(key)
            known = [f"{place}/{len(self._ever[place])}"]
            self._done[place].append([key, known[0]])
        await asyncio.sleep(self._chance.uniform(0, 0.02))
        return web.json_response({"answer": known[0]})

    async def undo(self, request: web.Request) -> web.Response:
        self._done[f"{request.match_info['what']}/{request.match_info['name']}"].clear()
        return web.json_response({})

    async def there(self, request: web.Request) -> web.Response:
        for place, done in self._done.items():
            for key, answer in done:
                if place.startswith(f"{request.match_info['what']}/") and key == request.query["key"]:
                    return web.json_response({"answer": answer})
        return web.json_response({}, status=404)

    async def look(self, request: web.Request) -> web.Response:
        return web.json_response({"answer": f"{request.match_info['name']} is fine"})

    async def census(self, _request: web.Request) -> web.Response:
        told: dict[str, Any] = {"living": self._done, "ever": self._ever}
        return web.json_response(told)


async def main() -> None:
    ledger, app = Ledger(), web.Application()
    app.add_routes(
        [
            web.get("/{any}/there/{what}", ledger.there),
            web.get("/{any}/look/{name}", ledger.look),
            web.get("/{any}/census", ledger.census),
            web.delete("/{any}/{what}/{name}", ledger.undo),
            web.route("*", "/{any}/{what}/{name}", ledger.do),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
