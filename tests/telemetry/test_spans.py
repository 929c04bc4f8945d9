"""Spans of transitions from five replicas, through the real collector: each transition one, whoever is killed."""

from collections import Counter
from itertools import cycle, islice
from pathlib import Path

import pytest

from commontrip import Transition
from commontrip.opentelemetry import span_ids
from tests.support.servers import Server
from tests.support.waiting import eventually
from tests.telemetry.collector import Collector
from tests.telemetry.fleet import Auth, Fleet
from tests.telemetry.sink import Sink, Span

TIMES = 20
UNSAMPLED = {"otel_traces_sampler": "parentbased_traceidratio", "otel_traces_sampler_arg": "0"}


def expected(made: list[Transition]) -> dict[str, Transition]:
    """Return the transitions by the ids that their spans must have."""
    return {f"{span_ids('auth', str(one.epoch))[1]:016x}": one for one in made}


def one_of_each(sink: Sink, made: list[Transition]) -> dict[str, Span]:
    """Assert that by distinct span ids every transition has one, with its own times and maker; return them by id."""
    wanted, found = expected(made), {span.span_id: span for span in sink.transitions()}
    assert set(found) == set(wanted)
    for span_id, span in found.items():
        one = wanted[span_id]
        assert span.trace_id == f"{span_ids('auth', str(one.epoch))[0]:032x}"
        assert (span.start // 1_000_000, span.end >= span.start) == (round(one.since * 1000), True)
        assert span.attributes["circuit_breaker.replica"] == one.replica
        assert span.attributes["circuit_breaker.transition.id"] == one.epoch.number
    return found


def served(sink: Sink) -> set[str]:
    """Return the ids of the spans of requests that were served."""
    return {span.span_id for span in sink.spans() if span.kind == Sink.SERVER}


def the_chain_leads_to_the_first(found: dict[str, Span]) -> None:
    """Assert that from every transition the links to the one before lead to the first, over all between."""
    for last in found.values():
        here, walked = last, [last.attributes["circuit_breaker.transition.id"]]
        while "previous" in here.links:
            here = found[here.links["previous"]]
            walked.append(here.attributes["circuit_breaker.transition.id"])
        assert walked == list(range(walked[0], 0, -1))


@pytest.mark.parametrize("sampler", [{}, UNSAMPLED], ids=["sampled", "unsampled"])
async def test_each_transition_is_one_span_and_one_more_for_each_other_replica(
    server: Server, prefix: str, auth: Auth, tmp_path: Path, sink: Sink, collector: Collector, sampler: dict[str, str]
) -> None:
    """20 trips and recoveries in a fleet of five: one span each, four who observed it, and a chain of links."""
    otel = {"otel_exporter_otlp_endpoint": collector.url, **sampler}
    async with Fleet(server, prefix, auth, tmp_path, 5, **otel) as fleet:
        for tripper, prober in islice(zip(cycle(fleet.all), cycle(fleet.all[2:]), strict=False), TIMES):
            await fleet.trip(tripper)
            await fleet.recover(prober)
        made = await fleet.history()
        await eventually(lambda: len(sink.observed()) >= 4 * len(made), "all spans to arrive")
        await eventually(lambda: len(sink.transitions()) >= len(made), "all spans to arrive")
        # A trip may be made by a replica that only saw the count: it knows of no call.
        linked = [span.links["cause"] for span in sink.transitions() if "cause" in span.links]
        assert len(linked) >= 0.9 * len(made)
        await eventually(
            lambda: bool(sampler) or set(linked) <= served(sink), "the spans of the calls that caused them"
        )
        assert not sampler or not served(sink)
    assert len(made) == 3 * TIMES
    found = one_of_each(sink, made)
    the_chain_leads_to_the_first(found)
    assert len(sink.transitions()) == len(made)  # and none was sent twice
    observed = sink.observed()
    assert len({span.span_id for span in observed}) == len(observed)
    assert Counter(span.parent for span in observed) == dict.fromkeys(found, 4)
    for span in observed:
        assert span.trace_id == found[span.parent].trace_id
        assert span.attributes["circuit_breaker.replica"] != found[span.parent].attributes["circuit_breaker.replica"]


@pytest.mark.timeout(120)  # 25 processes are started one after another
async def test_who_is_killed_at_its_commit_leaves_its_span_to_others(
    server: Server, prefix: str, auth: Auth, tmp_path: Path, sink: Sink, collector: Collector
) -> None:
    """Twenty makers are killed by SIGKILL right after the commit: every transition has its one span all the same."""
    otel = {"otel_exporter_otlp_endpoint": collector.url, **UNSAMPLED}
    async with Fleet(server, prefix, auth, tmp_path, 5, **otel) as fleet:
        for _ in range(TIMES):
            await fleet.trip_and_kill(fleet.all[0])
            spare = fleet.spare()
            await fleet.recover(fleet.all[0])
            await fleet.join(spare)
        made = await fleet.history()
        await eventually(lambda: set(expected(made)) <= {span.span_id for span in sink.transitions()}, "spans", 30)
        rescued = [line for one in fleet.made for line in one.logged() if "did not send" in line["message"]]
    assert sum(one.state == "OPEN" for one in made) == TIMES
    the_chain_leads_to_the_first(one_of_each(sink, made))
    print(f"{len(rescued)} of {TIMES} spans were sent by others; {len(sink.transitions()) - len(made)} twice")
    assert len(rescued) >= TIMES // 2
