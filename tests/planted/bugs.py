"""Bugs that people make in code like ours, each as one exact change of a source file and the test that must find it.

Rules
1. `old` stands in the file exactly once. Who rewrites that place moves the bug along with it.
2. `new` is what a reasonable programmer might have written: it imports, it type-checks in spirit, and most tests pass.
3. A bug that its test no longer finds is a hole in the tests, and the gate fails.
"""

from __future__ import annotations

from dataclasses import dataclass

DOUBTS = "tests/gateway/test_doubts.py::"
MATRIX = "tests/crash/test_kill_matrix.py::"
WORKERS = "tests/crash/test_two_workers.py::"
VERIFY = "tests/core/test_verify.py::"
LOG = "tests/core/test_log.py::"
DRIFT = "tests/gateway/test_drift.py::"
BEAM = "tests/embedded/test_beam.py::"
PRUNE = "tests/store/test_prune.py::"
PRUNED = "tests/store/test_prune_postgres.py::"
FAILOVER = "tests/store/test_failover.py::"
STEP = "tests/core/test_step.py::"
WORLD = "tests/gateway/test_one_world.py::"
PLAYS = "tests/model/test_plays.py::test_no_play_does_anything_twice_or_leaves_anything_behind"
AGREE = "tests/model/test_plays.py::test_the_model_and_the_engine_leave_the_same_world"
FORKS = "tests/gateway/test_forks.py::"
EXPLORE = "tests/gateway/test_explore.py::"
CLOSING = "tests/gateway/test_closing.py::"
FORK_MATRIX = "tests/crash/test_fork_matrix.py::"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """`file` is under src/holdfast; `found_by` the node id of the test that fails under it."""

    name: str
    file: str
    old: str
    new: str
    found_by: str


BUGS = (
    # --- write, then do, then seal ---
    Bug(
        name="the intent is written after the effect",
        file="gateway/send.py",
        old="        if not await self._written(intent, asked.args.blobs):\n            return None\n",
        new="        early = for_effect(self.line.branch, 1, call.tool, intent.key)\n"
        "        await self._within(asked.contract, asked.upstream.perform(None, early))\n"
        "        if not await self._written(intent, asked.args.blobs):\n            return None\n",
        found_by=MATRIX + "test_a_call_survives_a_death_at_any_boundary[mail-in acted 1]",
    ),
    Bug(
        name="the answer is given before its seal is written",
        file="gateway/send.py",
        old="        if slot.kind is Kind.IDEMPOTENT:\n",
        new="        if slot.kind is not Kind.READ:\n",
        found_by=MATRIX + "test_a_call_survives_a_death_at_any_boundary[mail-before Intent 2]",
    ),
    Bug(
        name="a barrier does not flush (synchronous=NORMAL)",
        file="store/committer.py",
        old='"PRAGMA synchronous = FULL" if barrier else',
        new='"PRAGMA synchronous = NORMAL" if barrier else',
        found_by=DOUBTS + "test_nothing_is_unflushed_while_an_effect_happens_or_after_its_answer",
    ),
    Bug(
        name="an intent is written though somebody has placed a cancellation",
        file="gateway/line.py",
        old="blobs=blobs, barrier=True, guarded=True)",
        new="blobs=blobs, barrier=True)",
        found_by=DOUBTS + "test_a_cancellation_that_comes_before_the_intent_stops_it",
    ),
    Bug(
        name="a call is given up between its intent and its seal",
        file="gateway/mediate.py",
        old="await asyncio.shield(self._piece(asked))",
        new="await self._piece(asked)",
        found_by="tests/crash/test_cancellation.py::"
        "test_a_call_that_was_given_up_is_carried_out_once_and_answers_the_next_one[mail-in acting 1-cancel]",
    ),
    # --- doubt ---
    Bug(
        name="an irreversible effect in doubt is sent again",
        file="core/recovery.py",
        old='    return AskPerson("it is irreversible and has no probe")',
        new="    return Redo()",
        found_by=MATRIX + "test_a_call_survives_a_death_at_any_boundary[mail-before Seal 1]",
    ),
    Bug(
        name="a probe is not asked",
        file="core/recovery.py",
        old="    if contract.probe:\n        return Probe(settled_ms)\n",
        new="",
        found_by=DOUBTS + "test_a_probe_that_finds_it_seals_it_with_the_answer[reversible]",
    ),
    Bug(
        name="a probe is believed before nothing can arrive late",
        file="core/recovery.py",
        old="attempts.last_ms + (contract.late_ms or 0)",
        new="attempts.last_ms",
        found_by=DOUBTS + "test_a_probe_is_believed_only_when_nothing_can_arrive_late_any_more",
    ),
    Bug(
        name="a reversible effect in doubt is sent again without its undo",
        file="core/recovery.py",
        old="        return UndoThenRedo(settled_ms)",
        new="        return Redo(settled_ms)",
        found_by=DOUBTS + "test_a_reversible_effect_is_taken_back_and_then_done_again",
    ),
    Bug(
        name="an expired idempotency key is sent again",
        file="core/recovery.py",
        old="    if contract.kind is Kind.IDEMPOTENT and not _key_expired(contract, attempts, now_ms):",
        new="    if contract.kind is Kind.IDEMPOTENT:",
        found_by=DOUBTS + "test_an_expired_key_is_asked_about_if_there_is_a_probe",
    ),
    Bug(
        name="a timeout is counted as a failure",
        file="gateway/send.py",
        old="        except Exception as failure:  # noqa: BLE001 - whatever it is,",
        new="        except TimeoutError as late:\n"
        '            await self.seal(slot, NotHappened("it took too long"))\n'
        '            raise DidNotHappen("it took too long") from late\n'
        "        except Exception as failure:  # noqa: BLE001 - whatever it is,",
        found_by=DOUBTS + "test_a_timeout_of_a_write_is_doubt[True]",
    ),
    Bug(
        name="a refusal of a second sending is believed (409)",
        file="gateway/send.py",
        old="            if slot.doubtful:\n                slot.trouble = legible(refusal.what, 300)\n",
        new="            if slot.trouble:\n                slot.trouble = legible(refusal.what, 300)\n",
        found_by=DOUBTS + "test_after_a_crash_too_a_refusal_of_the_second_sending_is_no_outcome",
    ),
    Bug(
        name="a recovery is not written down before it is tried",
        file="gateway/send.py",
        old="        if not await self._written(record, ()):\n            return None\n",
        new="        del record\n",
        found_by=DOUBTS + "test_before_each_further_sending_it_is_taken_back_once_more",
    ),
    Bug(
        name="a checkpoint stands on a doubt",
        file="gateway/decide.py",
        old="        if doubts:\n",
        new="        if doubts and self._mediator.parked:\n",
        found_by="tests/gateway/test_restore.py::test_a_checkpoint_does_not_stand_on_a_doubt",
    ),
    Bug(
        name="what was not asked for yet is put behind a checkpoint",
        file="gateway/decide.py",
        old="                if closure.restores and self._goes_over():\n",
        new="                if closure.restores and self._mediator.parked:\n",
        found_by="tests/gateway/test_restore.py::test_an_agent_that_closes_before_it_acts_acts_once[deaths0]",
    ),
    Bug(
        name="a checkpoint that is tried again does not look again",
        file="gateway/decide.py",
        old="        if self._mediator.open:\n            return False\n        record, blobs = closure.close()\n"
        "        if not await self._line.attempt(record, blobs=blobs):\n            return False\n",
        new="        record, blobs = closure.close()\n"
        "        while not await self._line.attempt(record, blobs=blobs):\n            self._mediator.enter()\n",
        found_by="tests/gateway/test_restore.py::"
        "test_a_call_that_begins_while_a_checkpoint_is_tried_again_is_not_behind_it_unfinished",
    ),
    Bug(
        name="files are put back without a copy of what is there",
        file="embedded/files.py",
        old="        if not files.empty():\n",
        new="        if files.empty():\n",
        found_by="tests/embedded/test_files.py::test_what_is_there_is_kept_before_other_files_are_put_back",
    ),
    Bug(
        name="processes go on while their files are captured",
        file="embedded/files.py",
        old="        with frozen_below():\n",
        new="        with contextlib.nullcontext():\n",
        found_by="tests/embedded/test_files.py::test_the_processes_of_a_run_stand_still_while_its_files_are_captured",
    ),
    Bug(
        name="an agent can swallow a wait",
        file="errors.py",
        old="class Waiting(BaseException):",
        new="class Waiting(Exception):",
        found_by=DOUBTS + "test_an_agent_that_swallows_exceptions_does_not_swallow_a_doubt",
    ),
    # --- identity and key ---
    Bug(
        name="a call is known by its position and not by its identity",
        file="embedded/door.py",
        old="        identity = identity_of(contract.name, chosen, again)\n",
        new="        place = self._position = getattr(self, '_position', 0) + 1\n"
        "        identity = identity_of(contract.name, canonical(place), again)\n",
        found_by=DOUBTS + "test_calls_that_come_in_another_order_are_answered_by_what_they_ask",
    ),
    Bug(
        name="a key is drawn at random for each sending",
        file="gateway/send.py",
        old="asked.upstream.perform(args, self.receipt(slot)))",
        new="asked.upstream.perform(args, for_effect('r@main', 1, 't', __import__('os').urandom(16).hex())))",
        found_by=DOUBTS + "test_an_idempotent_effect_is_sent_again_with_the_same_key",
    ),
    Bug(
        name="the key does not tell the first effect of an identity from the second",
        file="core/effect.py",
        old='b"\\0" + identity + n.to_bytes(8, "big")\n    return hashlib.sha256(seed)',
        new='b"\\0" + identity + bytes(8)\n    return hashlib.sha256(seed)',
        found_by=DOUBTS + "test_what_certainly_did_not_happen_is_sealed_and_the_agent_may_decide_anew",
    ),
    Bug(
        name="what did not happen is adopted",
        file="core/log.py",
        old="            if slot is not None and isinstance(slot.outcome, Happened):",
        new="            if slot is not None and slot.outcome is not None:",
        found_by=DOUBTS + "test_what_certainly_did_not_happen_is_sealed_and_the_agent_may_decide_anew",
    ),
    Bug(
        name="a decision that binds is sampled again",
        file="gateway/decide.py",
        old="not (fresh and not self._line.log.binding(found))",
        new="not fresh",
        found_by="tests/gateway/test_decisions.py::test_fresh_asks_anew_before_an_effect_and_not_after_it",
    ),
    Bug(
        name="behind a checkpoint calls are counted from nothing",
        file="gateway/mediate.py",
        old="await self.line.made_behind(identity))",
        new="0 * await self.line.made_behind(identity))",
        found_by="tests/gateway/test_restore.py::test_calls_are_counted_on_behind_the_checkpoint",
    ),
    # --- who may write and send ---
    Bug(
        name="the epoch is not checked",
        file="store/sqlite.py",
        old="        if epoch and (epoch != head.epoch or head.worker != self.worker.id):",
        new="        if epoch and not head.epoch:",
        found_by="tests/store/test_store.py::test_who_does_not_hold_the_claim_is_fenced[sqlite-overtaken]",
    ),
    Bug(
        name="only the log is fenced: a flush that took long is not followed by a look at the claim",
        file="gateway/send.py",
        old="        while written and time.monotonic() - before_s > PAUSE_S:\n"
        "            before_s = time.monotonic()\n            await self.line.write()\n",
        new="        del before_s\n",
        found_by=WORKERS + "test_an_open_effect_of_a_stopped_worker_waits_for_a_person[mail-after Intent 1]",
    ),
    Bug(
        name="an owner that is not proven to have stopped is taken for stopped",
        file="gateway/line.py",
        old='        return not later or self.log.claims[min(later)] != "unproven"',
        new='        return not later or self.log.claims[min(later)] != "none"',
        found_by=WORKERS + "test_an_open_effect_of_a_stopped_worker_waits_for_a_person[pay-in acted 1]",
    ),
    Bug(
        name="a process that has the number of a dead worker is taken for it",
        file="store/worker.py",
        old="    return _born(worker.pid) != worker.born",
        new="    return _born(worker.pid) is None",
        found_by="tests/store/test_claims.py::test_another_process_under_the_same_number_is_no_sign_of_life",
    ),
    Bug(
        name="what another process has written is not taken into account",
        file="store/committer.py",
        old="                self.changed()\n",
        new="",
        found_by="tests/store/test_sqlite.py::test_an_entry_of_another_process_is_taken_into_account_at_once",
    ),
    # --- the world moves ---
    Bug(
        name="a run's own later write explains whatever came after it",
        file="core/drift.py",
        old="any(etag is None or write.etag is None or same_version(etag, write.etag) for write in then.writes)",
        new="bool(then.writes)",
        found_by=DRIFT + "test_what_the_run_itself_wrote_is_told_apart_from_what_others_wrote",
    ),
    Bug(
        name="what cannot be compared is taken for the same",
        file="core/drift.py",
        old="    if alike is None:\n        return Fate.UNKNOWN\n    return Fate.SAME if alike else",
        new="    return Fate.SAME if alike is not False else",
        found_by=DRIFT + "test_an_answer_that_was_never_written_down_cannot_be_compared",
    ),
    Bug(
        name="an older reading counts, not the newest",
        file="core/drift.py",
        old="slot if known is None or known.sealed_seq < slot.sealed_seq else known",
        new="known or slot",
        found_by="tests/core/test_drift.py::test_only_the_newest_reading_of_each_identity_counts",
    ),
    Bug(
        name="answers are compared though both times a version was told",
        file="core/drift.py",
        old="        return Fate.SAME if same_version(etag, then.etag) else _unlike(then, etag)\n",
        new="        return Fate.SAME if same_version(etag, then.etag) else None\n",
        found_by=DRIFT + "test_a_version_that_is_the_same_decides_whatever_the_answer_says",
    ),
    Bug(
        name="what was a read is read again though its tool writes now",
        file="gateway/drift.py",
        old="        if then.key is None and way.contract.kind is not Kind.READ:\n",
        new="        if then.key is None and way.contract.kind is Kind.IRREVERSIBLE:\n",
        found_by=DRIFT + "test_what_was_a_read_and_writes_now_is_not_called[idempotent]",
    ),
    Bug(
        name="a run is held to the world only where something is gone",
        file="gateway/drift.py",
        old="        return self.fate in (Fate.SAME, Fate.OURS)\n",
        new="        return self.fate is not Fate.GONE\n",
        found_by=DRIFT + "test_a_run_that_is_held_to_the_world_is_not_started_where_it_has_moved",
    ),
    Bug(
        name="a branch is promoted though what it has read has moved",
        file="embedded/explore.py",
        old="            if why is None:\n                return found, list(attempts)\n",
        new="            if why is None or len(ended) > 1:\n                return found, list(attempts)\n",
        found_by=DRIFT + "test_a_candidate_whose_reading_has_moved_is_not_promoted_and_the_next_best_is",
    ),
    Bug(
        name="a branch of a beam searches for itself",
        file="embedded/explore.py",
        old="        if keep and self._in_a_beam():\n",
        new="        if keep and self._in_a_beam() and not score:\n",
        found_by=BEAM + "test_the_branches_of_one_depth_are_judged_across_their_parents",
    ),
    Bug(
        name="of the way to the winner only its end is promoted",
        file="embedded/explore.py",
        old="        for name in way[way.index(self._family.name) + 1 :]:\n",
        new="        for name in way[-1:]:\n",
        found_by=BEAM + "test_the_whole_way_is_promoted_and_each_is_judged_once",
    ),
    Bug(
        name="what is read by many at once is taken up by each of them",
        file="gateway/family.py",
        old="                    if entry.seq > self.seen[found.name]:\n",
        new="                    if entry.seq > 0:\n",
        found_by="tests/gateway/test_family.py::test_many_who_look_at_once_take_up_each_entry_once",
    ),
    Bug(
        name="a briefing lets a fence be closed",
        file="agent/briefing.py",
        old="sign.isprintable() and sign not in FENCED else",
        new="sign.isprintable() else",
        found_by="tests/agent/test_briefing.py::test_hostile_text_stays_inside_its_line_of_json",
    ),
    Bug(
        name="what another branch wrote excuses a promotion",
        file="gateway/drift.py",
        old="asking.told_apart(found, _own(log))",
        new="asking.told_apart(found, await _written(store, log))",
        found_by=DRIFT + "test_what_another_branch_wrote_is_no_excuse_for_a_promotion",
    ),
    # --- people ---
    Bug(
        name="an approval is not for the exact arguments",
        file="core/step.py",
        old="    if hold.call != call.digest or hold.contract != contract.digest():",
        new="    if hold.contract != contract.digest():",
        found_by=STEP + "test_an_approval_is_for_the_exact_call_and_contract[arguments]",
    ),
    Bug(
        name="an approval does not expire",
        file="core/step.py",
        old="each.call == hold.call and at.now_ms < each.expires_ms for each",
        new="each.call == hold.call for each",
        found_by=STEP + "test_an_approval_expires",
    ),
    Bug(
        name="an approval is used for the next call too",
        file="core/step.py",
        old="    if isinstance(beside, Perform) and contract.approval.people:\n",
        new="    before = at.log.slot(call.identity, call.n - 1)\n"
        "    if before is not None and before.approvals:\n"
        "        return Perform(call, before.approval_seq)\n"
        "    if isinstance(beside, Perform) and contract.approval.people:\n",
        found_by=STEP + "test_an_approval_is_used_once",
    ),
    # --- the log and its proof ---
    Bug(
        name="a seal may follow a verdict",
        file="core/log.py",
        old="    Settled: frozenset(),\n",
        new="    Settled: frozenset({Seal}),\n",
        found_by=LOG + "test_what_may_follow_what_in_the_life_of_a_call[settled-seal]",
    ),
    Bug(
        name="the chain does not cover the epoch",
        file="core/entry.py",
        old='+ epoch.to_bytes(8, "big") +',
        new="+ bytes(8) +",
        found_by="tests/core/test_entry.py::test_the_digest_is_what_the_format_says",
    ),
    Bug(
        name="the chain does not cover the key",
        file="core/entry.py",
        old="previous + place + key + body)",
        new="previous + place + body)",
        found_by="tests/core/test_entry.py::test_the_digest_is_what_the_format_says",
    ),
    Bug(
        name="a record may be spelt in two ways",
        file="core/codec.py",
        old="    if not canonical:",
        new="    if False:",
        found_by="tests/core/test_codec.py::test_a_record_has_one_spelling",
    ),
    Bug(
        name="secret arguments are written to the log",
        file="embedded/door.py",
        old='{"$secret": hmac.digest(self._secret, canonical(value), "sha256").hex()}',
        new='{"$secret": value}',
        found_by="tests/embedded/test_house.py::test_a_secret_argument_is_nowhere_in_the_files_of_the_store",
    ),
    Bug(
        name="a payload is not compared with its digest",
        file="gateway/line.py",
        old="    if len(whole) != payload.size_bytes or hashlib.sha256(whole).hexdigest() != payload.digest:",
        new="    if len(whole) != payload.size_bytes:",
        found_by=DOUBTS + "test_an_answer_that_was_changed_in_the_store_is_not_given",
    ),
    Bug(
        name="the anchor is not compared when a store is opened",
        file="store/sqlite.py",
        old="                self.read_only = self.heads.compare(SqliteLeaves(self._reader))\n",
        new="                self.read_only = None\n",
        found_by=DOUBTS + "test_a_log_that_is_older_than_its_anchor_sends_nothing",
    ),
    Bug(
        name="an intent does not rest on what the other branches were",
        file="gateway/line.py",
        old="(self.seen, self.family.watch) if guarded",
        new="(self.seen, NOTHING) if guarded",
        found_by=PLAYS,
    ),
    Bug(
        name="a speculative branch does what it asks for",
        file="core/step.py",
        old="    if at.held and contract.kind is not Kind.READ:",
        new="    if at.held and contract.kind is Kind.IRREVERSIBLE:",
        found_by=AGREE,
    ),
    Bug(
        name="what another branch was refused first is not adopted",
        file="core/step.py",
        old="at.kin.find(call.identity, call.n) or at.kin.unheld(log, asked.identity)",
        new="at.kin.find(call.identity, call.n)",
        found_by=WORLD + "test_what_was_refused_and_then_done_on_another_branch_is_not_done_again",
    ),
    Bug(
        name="what a branch inherited as adopted is taken back",
        file="core/kin.py",
        old="(name == branch and (upto is None or seq <= upto)) or self._has_adopted(name, upto, node)",
        new="name == branch and (upto is None or seq <= upto)",
        found_by=WORLD + "test_what_a_branch_inherited_as_adopted_is_not_taken_back",
    ),
    Bug(
        name="an effect is adopted while it is taken back",
        file="core/kin.py",
        old="                return self._undo_of(relative, undo_identity(identity, n)) or relative\n",
        new="                return relative\n",
        found_by=WORLD + "test_an_undo_that_died_is_brought_to_its_end_before_the_same_is_done_anew",
    ),
    Bug(
        name="a fork does not hear of undos on other branches",
        file="gateway/fork.py",
        old=" + await _since_elsewhere(store, parent, cutting.at)",
        new="",
        found_by=WORLD + "test_who_begins_after_an_undo_knows_of_it_though_it_only_adopted_what_is_gone",
    ),
    Bug(
        name="an undo that is refused is left in doubt",
        file="gateway/closing.py",
        old="                yield mediator\n            finally:\n                await mediator.drain()",
        new="                yield mediator\n                await mediator.drain()\n"
        "            finally:\n                pass",
        found_by=WORLD + "test_an_undo_that_is_refused_is_no_doubt",
    ),
    Bug(
        name="the verifier takes base64 in any spelling",
        file="core/verify.py",
        old="    if data is None or b64encode(data).decode() != value:",
        new="    if data is None or b64decode(b64encode(data)) != data:",
        found_by=VERIFY + "test_base64_that_says_the_same_in_another_spelling_is_refused[body]",
    ),
    Bug(
        name="the verifier takes decimals in any spelling",
        file="core/verify.py",
        old="(0|[1-9][0-9]{0,19})",
        new="([0-9]{1,20})",
        found_by=VERIFY + "test_a_head_has_one_spelling_though_it_is_signed[03]",
    ),
    Bug(
        name="the verifier takes other ends of lines within a proof",
        file="core/verify.py",
        old='lines.split("\\n")[:-1]]',
        new="lines.splitlines()]",
        found_by="tests/core/test_proof.py::test_no_changed_byte_of_a_proof_is_passed_over[1]",
    ),
    Bug(
        name="a sequencer is known by its name alone, and not by its epoch",
        file="store/postgres_numbering.py",
        old="WHERE worker = by_worker AND epoch = by_epoch;",
        new="WHERE worker = by_worker;",
        found_by="tests/store/test_sequencer.py::test_who_has_lost_its_place_numbers_and_signs_nothing",
    ),
    # --- retention ---
    Bug(
        name="a process goes on believing that what was pruned is stored",
        file="store/sqlite.py",
        old="self._deletions, self._stored = deletions, set()",
        new="self._deletions = deletions",
        found_by=PRUNE + "test_a_living_process_does_not_believe_that_what_went_is_stored",
    ),
    Bug(
        name="the pieces of a rope that stays are pruned",
        file="store/prune.py",
        old="            waiting.extend(self.held(found))\n",
        new="",
        found_by=PRUNE + "test_a_piece_of_a_rope_that_stays_stays",
    ),
    Bug(
        name="what is named while a store is being pruned is not looked at",
        file="store/prune.py",
        old="            self._look(connection)\n",
        new="            place_blobs(connection)\n",
        found_by=PRUNE + "test_what_is_named_while_it_is_being_pruned_stays[sqlite-one]",
    ),
    Bug(
        name="a rope is pruned after its pieces",
        file="store/prune.py",
        old="self._plan.doomed[::-1]",
        new="self._plan.doomed[:]",
        found_by=PRUNE + "test_a_rope_that_is_named_again_in_another_cut_is_whole",
    ),
    Bug(
        name="a number that SQLite gives again is taken for one that is in the index",
        file="store/prune.py",
        old="            connection.execute(_PLACED)  # rows are numbered anew from the newest that is left\n",
        new="",
        found_by="tests/store/test_prune_sqlite.py::test_a_payload_that_comes_back_after_the_newest_ones_went_is_found",
    ),
    Bug(
        name="a rope is kept though a piece that it rests on was pruned",
        file="store/sqlite.py",
        old="self._sound(connection, blobs, packed) if self._unsure else packed",
        new="packed",
        found_by="tests/store/test_prune_runs.py::test_a_living_run_does_not_rest_on_pieces_that_nothing_holds",
    ),
    Bug(
        name="those who began before a prune of a database are not waited for",
        file="store/postgres_prune.py",
        old="        self._wait_for_all()\n",
        new="",
        found_by=PRUNED + "test_a_transaction_that_began_before_a_prune_is_waited_for_and_what_it_names_stays",
    ),
    Bug(
        name="two that prune a database put on one list what is to go",
        file="store/postgres_prune.py",
        old="self._list = secrets.randbits(63)",
        new="self._list = self._mine",
        found_by=PRUNED + "test_a_second_prune_that_gives_up_does_not_put_back_on_the_list_what_was_named_again",
    ),
    Bug(
        name="a worker goes on believing that what was pruned from a database is stored",
        file="store/postgres_belief.py",
        old="self._count, self._stored, self._unsure = count, set(), True",
        new="self._count, self._unsure = count, True",
        found_by=PRUNE + "test_a_living_process_does_not_believe_that_what_went_is_stored[postgres]",
    ),
    Bug(
        name="what is named again while a database is pruned keeps the pieces that go",
        file="store/postgres_pruning.py",
        old="WHERE b.digest = u.digest AND u.digest = ANY (spared);",
        new="WHERE b.digest = u.digest AND u.digest = ANY (spared) AND false;",
        found_by=PRUNED + "test_a_rope_on_the_list_that_is_named_in_another_cut_no_longer_rests_on_its_old_pieces",
    ),
    Bug(
        name="what comes later overtakes what waits for the outside",
        file="store/postgres.py",
        old="            async with self._turns.held(job.branches[0]):\n",
        new="            if job.branches:\n",
        found_by="tests/store/test_depot.py::"
        "test_what_comes_later_is_not_placed_before_what_waits_for_the_outside[file]",
    ),
    Bug(
        name="an agent that swallows the loss of an answer goes on",
        file="gateway/line.py",
        old="            self.lost(error)\n",
        new="",
        found_by="tests/gateway/test_pruned.py::test_an_agent_that_swallows_the_loss_of_an_answer_does_not_go_on",
    ),
    # --- forks: one world, many histories ---
    Bug(
        name="what another branch made happen is not adopted",
        file="core/step.py",
        old="        elsewhere = at.kin.find(call.identity, call.n) or at.kin.unheld(log, asked.identity)\n",
        new="        elsewhere = None if at.kin.find(call.identity, call.n) else at.kin.unheld(log, bytes(32))\n",
        found_by=FORKS + "test_a_recovery_fork_at_every_node_does_nothing_twice[memory]",
    ),
    Bug(
        name="each branch has keys of its own",
        file="embedded/lives.py",
        old="Mediator(line, line.family.run, clock_of(self.store),",
        new="Mediator(line, line.branch, clock_of(self.store),",
        found_by=FORK_MATRIX + "test_a_fork_of_a_run_that_died_anywhere[put-in acted 2]",
    ),
    Bug(
        name="calls are counted on the branch and not along its history",
        file="gateway/line.py",
        old="            for name, upto in self.family.tree.lineage(self.family.name)\n"
        '            for entry in await self.store.read(f"{self.family.run}@{name}", key=key',
        new="            for name, upto in self.family.tree.lineage(self.family.name)[-1:]\n"
        '            for entry in await self.store.read(f"{self.family.run}@{name}", key=key',
        found_by=FORKS + "test_calls_of_an_ancestor_are_counted_on_behind_its_last_entry[memory]",
    ),
    Bug(
        name="a speculative branch does what is harmless",
        file="core/step.py",
        old="    if at.held and contract.kind is not Kind.READ:\n",
        new="    if at.held and contract.kind is Kind.IRREVERSIBLE:\n",
        found_by=EXPLORE + "test_the_best_candidate_is_done_once_and_the_others_are_not[memory]",
    ),
    Bug(
        name="what drifted on a speculative branch is sent when people agree",
        file="core/step.py",
        old="    if at.held:\n        return Plan(drifted, known)\n",
        new="",
        found_by="tests/core/test_kin.py::test_what_drifted_on_a_held_branch_is_planned",
    ),
    Bug(
        name="of a group more than one goes on",
        file="core/tree.py",
        old="            if other is not limb and other.status is not Status.ABANDONED:\n",
        new="            if other is not limb and other.promoted:\n",
        found_by=EXPLORE + "test_the_best_candidate_is_done_once_and_the_others_are_not[memory]",
    ),
    Bug(
        name="a branch that was superseded goes on",
        file="gateway/mediate.py",
        old="        if limb.status is Status.SUPERSEDED or self.held is not family.held:\n",
        new="        if self.held is not family.held:\n",
        found_by=FORK_MATRIX + "test_who_was_superseded_in_its_sleep_sends_nothing[mail-before Intent 2]",
    ),
    Bug(
        name="what is taken back is so first come first",
        file="gateway/closing.py",
        old="each.slot.intent_seq), reverse=True)",
        new="each.slot.intent_seq))",
        found_by=CLOSING + "test_what_was_stranded_is_taken_back_last_first_when_the_run_ends[memory]",
    ),
    Bug(
        name="what a living branch has adopted is taken back",
        file="core/kin.py",
        old="            (name == branch and (upto is None or seq <= upto)) or self._has_adopted(name, upto, node)\n",
        new="            name == branch and (upto is None or seq <= upto)\n",
        found_by=CLOSING + "test_what_a_living_what_if_has_adopted_stays[memory]",
    ),
    Bug(
        name="what a living branch has inherited is taken back by its owner",
        file="core/step.py",
        old="at.kin.needed(branch or at.log.branch, slot.intent_seq))\n",
        new="(branch is not None and at.kin.needed(branch, slot.intent_seq)))\n",
        found_by="tests/core/test_kin.py::test_what_another_branch_has_inherited_of_ours_is_not_taken_back[True]",
    ),
    Bug(
        name="a fork between an intent and its seal knows nothing of the seal",
        file="gateway/fork.py",
        old="    if slot.intent_seq <= at:\n        return Draft(slot.identity",
        new="    if slot.intent_seq < 0:\n        return Draft(slot.identity",
        found_by=FORKS + "test_a_seal_that_came_after_the_place_of_the_fork_is_carried[memory]",
    ),
    Bug(
        name="a fork stands on a doubt",
        file="gateway/fork.py",
        old="        if slot.intent_seq <= cutting.at:\n            raise InDoubt(",
        new="        if slot.intent_seq < 0:\n            raise InDoubt(",
        found_by=FORKS + "test_a_fork_between_an_intent_and_the_seal_that_nobody_has_is_refused[memory]",
    ),
    Bug(
        name="what was taken back on another branch is believed",
        file="gateway/fork.py",
        old=" + await _since_elsewhere(store, parent, cutting.at)\n",
        new="\n",
        found_by=FORKS + "test_what_a_child_took_back_of_its_history_is_not_believed_by_a_later_fork[memory]",
    ),
    Bug(
        name="what a fork has set is forgotten behind a checkpoint",
        file="gateway/history.py",
        old="    for stretch, last in lineage[1:]:\n",
        new="    for stretch, last in lineage[:0]:\n",
        found_by=FORKS + "test_a_setting_outlives_a_checkpoint_of_its_branch[memory]",
    ),
    Bug(
        name="what is planned before a checkpoint is lost",
        file="gateway/decide.py",
        old="                if closure.restores and self._mediator.plans:\n",
        new="                if closure.restores and self._mediator.parked and self._mediator.plans:\n",
        found_by=EXPLORE + "test_what_is_planned_before_a_checkpoint_is_not_lost[memory]",
    ),
    Bug(
        name="a dead key is sent beside another branch",
        file="core/step.py",
        old="    return isinstance(remedy(contract, attempts, at.now_ms, owner_stopped=False), Redo)\n",
        new="    return contract.kind is Kind.IDEMPOTENT and attempts.count > 0\n",
        found_by="tests/core/test_kin.py::"
        "test_an_idempotent_effect_is_sent_beside_another_only_as_its_key_allows[a key that is dead]",
    ),
    Bug(
        name="a commit for which a standby was not waited counts",
        file="store/postgres_lane.py",
        old="        if self._warnings:\n",
        new="        if self._warnings == [None]:\n",
        found_by=FAILOVER + "test_a_wait_for_the_standby_that_is_cancelled_acknowledges_nothing",
    ),
    Bug(
        name="a primary that was left behind is used",
        file="store/postgres_ways.py",
        old="    if timeline and timeline < _newest.get(system, 0):\n",
        new="    if timeline and timeline < 0:\n",
        found_by=FAILOVER + "test_a_primary_that_was_left_behind_is_neither_read_nor_written_when_it_is_back",
    ),
    Bug(
        name="who finds that flushed entries are gone tells nobody",
        file="store/postgres_lane.py",
        old="            self._ask(MARK, (",
        new="            str((",
        found_by=FAILOVER + "test_a_worker_whose_flushed_entries_are_gone_stops_everybody_until_somebody_accepts",
    ),
    Bug(
        name="a late refusal ends the doubt about what was sent again since",
        file="gateway/desk.py",
        old="            if isinstance(outcome, NotHappened) and slot.sent != sent:\n",
        new="            if isinstance(outcome, NotHappened) and slot.sent < sent:\n",
        found_by="tests/gateway/test_attest.py::test_that_it_did_not_happen_proves_nothing_once_it_was_sent_again",
    ),
    # --- policies, and people ---
    Bug(
        name="what a policy could not judge passes",
        file="gateway/cedar.py",
        old="        if result.diagnostics.errors:\n",
        new="        if result.diagnostics.errors and not reasons:\n",
        found_by="tests/gateway/test_cedar.py::"
        "test_a_rule_that_forbids_and_fails_is_skipped_by_the_engine_and_not_by_us",
    ),
    Bug(
        name="one person is enough where two must agree",
        file="core/step.py",
        old="    if valid < people_for(hold):\n",
        new="    if valid < 1:\n",
        found_by=STEP + "test_what_two_must_agree_to_waits_until_both_have",
    ),
)
