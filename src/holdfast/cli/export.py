"""`holdfast export`: a run, a whole store, or the proof of one entry, as a file that anybody can verify offline."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from holdfast.cli.bundle import bundle
from holdfast.cli.evidence import proof_of
from holdfast.cli.keys import pinned
from holdfast.cli.options import StoreOption, branch_of, existing
from holdfast.cli.terminal import hint, progress, safe, say
from holdfast.cli.view import look_from, reader_of, size_text
from holdfast.errors import BadCall, Misuse
from holdfast.store.reader import Reader
from holdfast.store.url import keepsakes


def verb(
    output: Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is stdout.")],
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id.")] = None,
    all: Annotated[bool, typer.Option("--all", help="The whole store.")] = False,
    proof: Annotated[
        str | None, typer.Option("--proof", metavar="NODE", help="Only the proof that this entry is in the log.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    vkey: Annotated[
        str | None,
        typer.Option("--vkey", metavar="KEY", help="The verifier key. [that of the log key beside the store]"),
    ] = None,
    store: StoreOption = None,
) -> None:
    """Write a run, or the whole store, to a file. It can be verified anywhere: entries, payloads and signed heads."""
    if [run is not None, all, proof is not None].count(True) != 1:
        raise BadCall("say either RUN or --all, or --proof NODE", fix="holdfast export RUN -o FILE")
    if run is not None and "@" in run:
        raise Misuse("a bundle is of a whole run, with all its branches", where=run,
                     fix=f"holdfast export {branch_of(run).partition('@')[0]} -o FILE, or --proof NODE")  # fmt: skip
    url = existing(store)
    reader = reader_of(url)
    try:
        key = pinned(keepsakes(url, reader.log_id).key, reader.log_id, vkey).vkey
        if output == "-":
            asyncio.run(_write(reader, sys.stdout.buffer, key, run, proof))
            return
        target = Path(output)
        if target.exists() and not force:
            raise Misuse("the file exists", where=output, fix="name another one, or --force")
        _replace(reader, target, key, run, proof)
    finally:
        asyncio.run(reader.close())
    say(f"{safe(output)}: {size_text(target.stat().st_size)}")
    hint(f"holdfast verify {safe(output)} --vkey {key}")


def _replace(reader: Reader, target: Path, key: str, run: str | None, proof: str | None) -> None:
    """Whole or not at all."""
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    try:
        with fresh.open("xb") as file:
            asyncio.run(_write(reader, file, key, run, proof))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except OSError as error:
        raise Misuse(
            f"the file cannot be written: {error.strerror}", where=str(target), fix="name another file"
        ) from None
    finally:
        fresh.unlink(missing_ok=True)


async def _write(reader: Reader, file: BinaryIO, key: str, run: str | None, proof: str | None) -> None:
    if proof is not None:
        with reader.moment():
            file.write((await proof_of(reader, proof, key)).encode())
        return
    if run is not None:
        await look_from(reader, f"{run}@main")
    with reader.moment(), progress("exporting", reader.size()) as tick:
        async for line in bundle(reader, key, run, tick):
            file.write(line)
