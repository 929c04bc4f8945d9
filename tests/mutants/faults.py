"""The faults: what breaks a promise of the library or of the services, and the tests that say so."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """A fault: in `file` of src/commontrip `new` stands for `old`, and `tests` of tests/breaker must go red.

    A file that begins with `apps/` is one of the services, and its tests are in tests/apps.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def place(self) -> str:
        """The file's path in the project."""
        return self.file if self.file.startswith("apps/") else f"src/commontrip/{self.file}"

    @property
    def witnesses(self) -> tuple[str, ...]:
        """The tests, by their paths in the project."""
        folder = "tests/apps" if self.file.startswith("apps/") else "tests/breaker"
        return tuple(f"{folder}/{test}" for test in self.tests)

    def apply(self, text: str) -> str:
        """Return the text with the fault; a `ValueError` if there is not exactly one place for it."""
        if (found := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} holds {self.old!r} {found} times, not once")
        return text.replace(self.old, self.new)


_STORE = "test_store_contract.py::TestStandalone::"
_RECOVERY = "test_opentelemetry_recovery.py::"
_MEMORY = "test_store_contract.py::TestMemory::"

MUTANTS = (
    # -- one transition, one winner
    Mutant(
        "compare-and-set removed",
        "lua/transition.lua",
        "(e and e.id or '') ~= expected",
        "false",
        (f"{_STORE}test_of_many_one_wins", "test_counting.py::test_t04_a_late_trip_changes_no_newer_epoch"),
    ),
    Mutant(
        "compare-and-set removed in memory",
        "_memory.py",
        '(str(breaker.transition.epoch) if breaker else "") != change.expected',
        "False",
        (f"{_MEMORY}test_the_epoch_decides_who_wins",),
    ),
    Mutant(
        "a repeated transition is lost",
        "lua/transition.lua",
        "if e and e.token == token then",
        "if false then",
        (f"{_STORE}test_a_repeated_transition_is_won_again_and_made_once",),
    ),
    Mutant(
        "stale facts accepted",
        "lua/transition.lua",
        "if decided > 0 and",
        "if false and",
        (f"{_STORE}test_old_facts_make_nothing", "test_races_refusals.py::test_race_28_stale"),
    ),
    Mutant(
        "floor ignored on re-assertion",
        "lua/commit.lua",
        "math.max(e and e.n or -1, new.floor or -1)",
        "(e and e.n or -1)",
        (
            f"{_STORE}test_the_number_rises_above_all_that_is_remembered",
            "test_store_lost.py::test_t13_a_failover_that_lost_writes_is_told_what_it_lost",
        ),
    ),
    Mutant(
        "a maker does not know its own",
        "_knowledge.py",
        "made = found.replica == self._replica.id",
        "made = False",
        ("test_races_epochs.py::test_race_10_a_maker_that_was_never_told_knows_its_own",),
    ),
    # -- every outcome counts once, in its own epoch
    Mutant(
        "epoch ignored in record",
        "lua/record.lua",
        "e.id ~= ARGV[a] or ",
        "",
        (
            f"{_STORE}test_another_epoch_is_old",
            "test_races_batches.py::test_race_24_a_batch_of_an_earlier_epoch_is_not_counted",
        ),
    ),
    Mutant(
        "batch counted twice",
        "lua/record.lua",
        "status = 'dup'",
        "status = 'ok'",
        (
            f"{_STORE}test_a_repeated_batch_is_counted_once",
            "test_races_batches.py::test_race_02_losses_lose_and_double_nothing",
        ),
    ),
    Mutant(
        "batch counted after its deadline",
        "lua/record.lua",
        "status = 'late'",
        "status = 'ok'",
        (f"{_STORE}test_a_late_batch_is_not_counted",),
    ),
    Mutant(
        "batch dropped on a lost reply",
        "_replica.py",
        "self._dirty |= waiting",
        "[setattr(circuit.ledger, '_sent', None) for circuit in waiting.values()]",
        (
            "test_races_batches.py::test_race_02_losses_lose_and_double_nothing",
            "test_races_batches.py::test_race_02_what_comes_during_a_repetition_leaves_by_itself",
        ),
    ),
    Mutant(
        "what comes too late is sent all the same",
        "_ledger.py",
        "if self._sent and now > self._sent_until:",
        "if False:",
        ("test_breaker.py::test_what_is_not_delivered_in_time_is_dropped",),
    ),
    Mutant(
        "an answer clears what has come meanwhile",
        "_ledger.py",
        "if self._sent is batch:",
        "self._take()\n        if self._sent is batch:",
        ("test_races_batches.py::test_race_01_a_repeated_batchs_reply_clears_only_that_batch",),
    ),
    Mutant(
        "failures sent ahead of successes",
        "_circuit.py",
        "tally.armed = True\n        self.replica.arm(self)",
        "tally.armed = True\n        self.replica.arm(self, hurry=tally.bad > 0)",
        ("test_counting.py::test_t20_a_rate_far_below_the_threshold_never_trips",),
    ),
    Mutant(
        "failures and successes in two batches",
        "_counts.py",
        "        run = self.look()\n        self._clear()\n",
        "        later, self.ok = (self.ok, 0) if self.bad else (0, self.ok)\n"
        "        run = self.look()\n        self._clear()\n        self.ok = later\n",
        ("test_counts.py::test_batches_equal_the_one_by_one_count",),
    ),
    Mutant(
        "streak peak forgotten",
        "lua/record.lua",
        "w[6], w[5], math.max(0,",
        "w[5], w[5], math.max(0,",
        (f"{_STORE}test_a_success_hides_no_streak", "test_races_batches.py::test_race_26_a_success_hides_no_streak"),
    ),
    Mutant(
        "window never ages",
        "lua/window.lua",
        "if start > now - w[2] and start <= now then\n      if start > now - span then",
        "if start <= now then\n      if true then",
        (f"{_STORE}test_a_window_ages",),
    ),
    Mutant(
        "a restarted replica repeats the numbers of the one before it",
        "_replica.py",
        'self.sender = f"{self.id}.{token()}"',
        "self.sender = self.id",
        ("test_races_batches.py::test_a_restarted_replica_of_the_same_name_counts",),
    ),
    Mutant(
        "cancellation counted",
        "_policy.py",
        "return Outcome.CANCELLED",
        "return Outcome.FAILURE",
        ("test_breaker.py::test_errors_count_as_the_policy_says",),
    ),
    # -- the probe budget is the fleet's
    Mutant(
        "budget ignored",
        "lua/lease.lua",
        "local full = p[2] + p[3] + live >= budget",
        "local full = false",
        (f"{_STORE}test_the_budget_is_the_fleets", "test_probes.py::test_t01_the_probe_budget_is_the_fleets"),
    ),
    Mutant(
        "budget ignored in local mode",
        "_memory.py",
        "if breaker.succeeded + breaker.failed + live >= lease.probes:",
        "if False:",
        (
            f"{_MEMORY}test_the_budget_is_the_fleets",
            "test_races_outages.py::test_probes_that_run_fill_the_local_budget",
        ),
    ),
    Mutant(
        "lease never expires",
        "lua/commit.lua",
        "if p[i + 1] > now then",
        "if true then",
        (f"{_STORE}test_a_lease_runs_out", "test_probes.py::test_t02_a_dead_probers_place_is_free_within_the_lease"),
    ),
    Mutant(
        "probe renewal missing",
        "_calls.py",
        "if due < left:",
        "if False:",
        (
            "test_races_budget.py::test_a_slow_probe_of_the_earlier_round_fills_a_place",
            "test_probes.py::test_t01_the_probe_budget_is_the_fleets",
        ),
    ),
    Mutant(
        "probe limit missing",
        "_calls.py",
        'self.end(Outcome.SLOW if circuit.slower_than else Outcome.FAILURE, "ProbeLimit")',
        "pass",
        ("test_breaker.py::test_a_hanging_probe_fails_at_its_limit",),
    ),
    Mutant(
        "a cancelled probe has failed",
        "_calls.py",
        '.get(outcome, "n")',
        '.get(outcome, "f")',
        ("test_calls.py::test_t07_a_cancelled_call_counts_for_nothing",),
    ),
    Mutant(
        "settle of another round counts",
        "lua/settle.lua",
        "if e.id ~= id or e.state ~= 'HALF_OPEN' or p[1] ~= e.token then",
        "if e.state ~= 'HALF_OPEN' then",
        (
            f"{_STORE}test_a_probe_of_another_round_frees_its_place_only",
            "test_counting.py::test_t04_a_late_probe_changes_no_newer_round",
        ),
    ),
    Mutant(
        "a probe that lost its place counts",
        "lua/settle.lua",
        "if not held then",
        "if false then",
        (
            f"{_STORE}test_only_a_held_lease_counts",
            "test_races_leases.py::test_race_08_an_expired_lease_settles_nothing",
        ),
    ),
    Mutant(
        "a repeated settlement ends the round again",
        "lua/settle.lua",
        "if e.token == token then",
        "if false then",
        (
            f"{_STORE}test_a_repeated_settlement_that_ended_the_round",
            "test_races_leases.py::test_race_09_a_repeated_settlement_ends_the_round_once",
        ),
    ),
    Mutant(
        "lost leases admit at once",
        "lua/lease.lua",
        "e.token, 0, 0, now + length, true",
        "e.token, 0, 0, 0, true",
        ("test_redis_store.py::test_lost_leases_admit_nobody_for_one_lease",),
    ),
    Mutant(
        "HALF_OPEN re-asserted without a rest",
        "_knowledge.py",
        "to, remaining = State.OPEN, self._circuit.policy.probe_lease",
        "to, remaining = State.OPEN, 0.001",
        ("test_store_lost.py::test_t13_a_flush_in_half_open_lets_no_more_probes_through",),
    ),
    Mutant(
        "refusal writes",
        "lua/lease.lua",
        "if dirty then save_probes",
        "if true then save_probes",
        ("test_redis_store.py::test_a_refusal_extends_nothing", "test_counting.py::test_t05_observing_changes_nothing"),
    ),
    Mutant(
        "no rest after a refusal",
        "_places.py",
        "circuit.clock() + rest",
        "0.0",
        ("test_probes.py::test_t01_the_probe_budget_is_the_fleets",),
    ),
    Mutant(
        "who asked too early rests as long as any other",
        "_places.py",
        "min(rest, view.transition.until - view.now)",
        "rest",
        ("test_clocks.py::test_who_asked_too_early_rests_until_the_cooldown_is_over",),
    ),
    Mutant(
        "the store's clock may be ahead of itself",
        "_line.py",
        "self.now() - self._doubt",
        "self.now()",
        ("test_clocks.py::test_a_replica_that_asked_over_a_slow_way_probes_no_sooner",),
    ),
    # -- nobody waits, and a replica never outruns itself
    Mutant(
        "a closed call asks the store",
        "_breaker.py",
        "entry: Tally | Call | None = circuit.gate\n",
        "entry: Tally | Call | None = circuit.gate\n        await self.read()\n",
        ("test_keys.py::test_t21_calls_cost_no_command_and_a_probe_two",),
    ),
    Mutant(
        "provisional refusal missing",
        "_circuit.py",
        "self.provisional_until = self.clock() + self.policy.cooldown.initial",
        "self.provisional_until = 0.0",
        ("test_breaker.py::test_the_next_call_finds_it_open", "test_races_refusals.py::test_race_28_confirmed"),
    ),
    Mutant(
        "provisional refusal never withdrawn",
        "_circuit.py",
        "        if self.provisional:\n            self.provisional_until = 0.0",
        "        if False:\n            self.provisional_until = 0.0",
        (
            "test_races_refusals.py::test_race_28_enough_successes_elsewhere",
            "test_races_refusals.py::test_race_28_an_order_that_the_store_still_holds",
        ),
    ),
    # -- one clock
    Mutant(
        "own clock used instead of the store's",
        "_knowledge.py",
        "max(found.until, found.override_until) - now)",
        'max(found.until, found.override_until) - __import__("time").time())',
        ("test_clocks.py::test_t09_replica_clocks_an_hour_apart_change_nothing",),
    ),
    Mutant(
        "a clock gone back lengthens a cooldown",
        "lua/common.lua",
        "if (e.state == 'OPEN' and e.till - now > e.cooldown) or",
        "if false and",
        ("test_redis_store.py::test_a_cooldown_lasts_no_longer_than_itself",),
    ),
    Mutant(
        "TTL shorter than the open period",
        "lua/commit.lua",
        "local ttl = BASE + span",
        "local ttl = BASE",
        (
            "test_redis_store.py::test_every_key_has_a_ttl_that_outlives_the_open_period",
            "test_clocks.py::test_t15_every_key_expires_and_outlives_the_open_period",
        ),
    ),
    Mutant(
        "retry_after ignored",
        "_circuit.py",
        "self.policy.cooldown.after(opens, retry_after)",
        "self.policy.cooldown.after(opens)",
        (
            "test_breaker.py::test_retry_after_lengthens_the_cooldown",
            "test_fleet.py::test_t27_the_dependencys_retry_after_is_the_fleets_cooldown",
        ),
    ),
    # -- the store may fail
    Mutant(
        "local mode never entered",
        "_line.py",
        "self.down = True",
        "self.down = False",
        (
            "test_store_lost.py::test_t12_a_service_starts_without_redis_and_joins_later",
            "test_races_refusals.py::test_race_28_no_answer",
        ),
    ),
    Mutant(
        "never goes home",
        "_circuit.py",
        "if self.knowledge.local and not self.replica.line.down:",
        "if False:",
        (
            "test_store_lost.py::test_t12_a_service_starts_without_redis_and_joins_later",
            "test_races_outages.py::test_race_33_a_store_that_refuses_writes_is_away",
        ),
    ),
    Mutant(
        "the verdict is not kept in local mode",
        "_knowledge.py",
        "            if self.here:\n                lease",
        "            self.here = self.shared = None\n            self.stale()\n"
        "            if self.here:\n                lease",
        ("test_store_lost.py::test_t11_without_redis_the_verdict_is_held_then_each_replica_protects",),
    ),
    Mutant(
        "probes that run are forgotten in local mode",
        "_knowledge.py",
        "self._circuit.ledger.known, running)",
        "self._circuit.ledger.known, {})",
        ("test_races_outages.py::test_probes_that_run_fill_the_local_budget",),
    ),
    Mutant(
        "a local verdict is not told at home",
        "_knowledge.py",
        "if here and decided_alone and stood_still and",
        "if False and here and",
        ("test_store_lost.py::test_t11_without_redis_the_verdict_is_held_then_each_replica_protects",),
    ),
    Mutant(
        "a newborn incarnation admits at once",
        "_knowledge.py",
        "NEWBORN = 0.025",
        "NEWBORN = 0.0",
        ("test_store_lost.py::test_t13_a_flush_while_open_lets_a_newborn_make_no_call",),
    ),
    Mutant(
        "who remembers OPEN seeds CLOSED",
        "_knowledge.py",
        "seed=seed and not self.remembers,",
        "seed=seed,",
        ("test_races_epochs.py::test_race_05_an_empty_store_hears_of_no_closed_epoch",),
    ),
    Mutant(
        "override not re-asserted after a flush",
        "_knowledge.py",
        "override=held.override if ordered_for else None,",
        "override=None,",
        ("test_fleet.py::test_t26_an_order_reaches_all_and_survives_restarts_and_a_flush",),
    ),
    # -- anyone can read it, and SET it
    Mutant(
        "SET by hand ignored",
        "lua/common.lua",
        "if STATES[state or ''] and e.mode == '-' then return e, state, mended end",
        "",
        (
            "test_redis_store.py::test_a_state_set_by_hand_becomes_a_transition",
            "test_fleet.py::test_t26_a_state_set_by_hand_under_a_probe_is_obeyed",
        ),
    ),
    Mutant(
        "no looks beside the subscription",
        "_replica.py",
        "if not quiet or self.line.down:",
        "if True:",
        ("test_races_outages.py::test_a_set_after_another_answer_is_obeyed_within_a_second",),
    ),
    Mutant(
        "hash tag missing in a Cluster",
        "redis.py",
        'f"{self.prefix}:{{{name}}}" if self._cluster else ',
        "",
        ("test_keys.py::test_t22_all_keys_of_a_breaker_share_a_slot",),
    ),
    # -- the caller's result is the caller's
    Mutant(
        "listener exception let through",
        "_listener.py",
        "except (Exception, asyncio.CancelledError):",
        "except NotImplementedError:",
        ("test_calls.py::test_t17_a_raising_listener_changes_nothing",),
    ),
    Mutant(
        "a hook's exception let through",
        "_circuit.py",
        "return look(what)\n        except Exception as error:",
        "return look(what)\n        except ArithmeticError as error:",
        ("test_breaker.py::test_hooks_that_raise_change_nothing",),
    ),
    # -- how seldom, how soon, and after what
    Mutant(
        "what crosses the threshold does not hurry",
        "_replica.py",
        "self._hurried |= hurry",
        "self._hurried |= False",
        ("test_spacing.py::test_what_crosses_the_threshold_waits_for_no_batch",),
    ),
    Mutant(
        "the fleet's load is not bounded",
        "_replica.py",
        "return max(interval, self.fleet * commands / (self._rate * _SHARES[interval]))",
        "return interval",
        ("test_spacing.py::test_a_large_fleet_spaces_out_its_batches",),
    ),
    Mutant(
        "a gap in the subscription is ignored",
        "_replica.py",
        "circuit.knowledge.suspect()",
        "pass",
        ("test_spacing.py::test_who_may_have_missed_news_reads_before_the_next_call",),
    ),
    # -- one span per transition
    Mutant(
        "all who look send the span",
        "lua/untold.lua",
        "redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[6])), id)",
        "redis.call('ZCARD', KEYS[2])",
        ("test_untold.py::test_of_many_who_look_one_is_given_it",),
    ),
    Mutant(
        "what has been delivered is not noted",
        "lua/told.lua",
        "redis.call('ZADD', KEYS[1], text(now + length), ARGV[i])",
        "redis.call('ZCARD', KEYS[1])",
        ("test_untold.py::test_what_has_been_told_is_not_found",),
    ),
    Mutant(
        "every replica looks",
        "opentelemetry/_recovery.py",
        "if 0 <= turn < LOOKERS:",
        "if 0 <= turn:",
        (f"{_RECOVERY}test_a_transition_costs_the_fleet_one_note_and_three_looks",),
    ),
    Mutant(
        "no replica looks",
        "opentelemetry/_recovery.py",
        "if 0 <= turn < LOOKERS:",
        "if False:",
        (f"{_RECOVERY}test_what_its_maker_cannot_deliver_another_replica_sends",),
    ),
    Mutant(
        "a batch of spans is tried once",
        "opentelemetry/_delivery.py",
        "if time.monotonic() > until or self.leaving.wait(pause):",
        "if True:",
        (f"{_RECOVERY}test_a_batch_is_tried_again_until_it_arrives",),
    ),
    Mutant(
        "a former life is announced as one's own",
        "_knowledge.py",
        "(made and self._replica.lived_at(found.since))",
        "made",
        (f"{_RECOVERY}test_a_name_that_comes_back_tells_nothing_again",),
    ),
    # -- for people
    Mutant(
        "a slow client is kept",
        "starlette/_stream.py",
        "if len(self._unsent) > most:",
        "if False:",
        ("test_starlette.py::test_a_slow_client_is_cut_off_alone",),
    ),
    Mutant(
        "any token will do",
        "starlette/__init__.py",
        'if not secrets.compare_digest(given.encode("latin-1"), self._token.encode()) or',
        "if",
        ("test_starlette.py::test_an_order_without_the_token_is_refused",),
    ),
    # -- what profile remembers of auth, and what the gateway passes on
    Mutant(
        "a late answer brings back what was refused",
        "apps/profile/known.py",
        "kept = [old for old in known if old.answered >= new.asked]",
        "kept = []",
        ("test_profile_answers.py::test_late_answer_does_not_bring_back_what_was_refused", "test_profile_known.py"),
    ),
    Mutant(
        "a late answer brings back what was refused, in the script",
        "apps/profile/known.lua",
        "if old.asked > new.answered then",
        "if false then",
        ("test_profile_memory.py::test_script_does_what_the_rule_says",),
    ),
    Mutant(
        "of answers that differ one is served",
        "apps/profile/known.py",
        "if len(known) != 1 or known[0].roles is None:",
        "if not known or known[0].roles is None:",
        ("test_profile_known.py",),
    ),
    Mutant(
        "a refusal is kept to oneself",
        "apps/profile/memory.py",
        "await self._write_one(user)\n        except AWAY:",
        "await asyncio.sleep(0)\n        except AWAY:",
        ("test_profile_memory.py::test_refusal_is_the_fleets_when_it_is_answered",),
    ),
    Mutant(
        "an emptied Redis is believed",
        "apps/profile/memory.py",
        "if now - since < _TOLD and any(one.asked < since for one in known):",
        "if False:",
        ("test_profile_memory.py::test_an_emptied_redis_brings_nothing_back",),
    ),
    Mutant(
        "an emptied Redis is told nothing",
        "apps/profile/memory.py",
        "self._unwritten |= dict.fromkeys(self._entries)",
        "pass",
        ("test_profile_memory.py::test_an_emptied_redis_brings_nothing_back",),
    ),
    Mutant(
        "a refusal with a bad body is none",
        "apps/profile/answers.py",
        "if response is not None and response.status_code in REFUSALS:",
        "if False:",
        ("test_profile_answers.py::test_answer",),
    ),
    Mutant(
        "another user's answer is taken",
        "apps/profile/answers.py",
        'answer["user_id"] == user\n        and ',
        "",
        ("test_profile_answers.py::test_no_usable_answer",),
    ),
    Mutant(
        "our own queue counts as auth's time",
        "apps/shared/connections.py",
        'request.extensions.get("placed", _nothing)()',
        "_nothing()",
        ("test_profile_answers.py::test_waiting_for_a_connection_of_our_own_is_not_auths_time",),
    ),
    Mutant(
        "what was begun is asked again",
        "apps/gateway/proxy.py",
        'if repeated or scope["method"] not in _IDEMPOTENT:',
        "if repeated:",
        ("test_gateway_answers.py",),
    ),
    Mutant(
        "the client's word of who asks is believed",
        "apps/gateway/headers.py",
        'given = _first(scope["headers"]) if trust else {}',
        'given = _first(scope["headers"])',
        ("test_gateway_requests.py",),
    ),
)
