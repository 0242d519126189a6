"""Links that columns will use, tried before they do: between nodes, and between two processes of a node.

Each node has a probe, and one more for the link inside it. Pairs are tried in rounds in which each probe has one partner at most.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.environment import NO_GPUS
from cluster.plan import FLOAT_BYTES, Plan
from cluster.preflight.link_probe import Link, LinkProbe
from cluster.preflight.nodes import Node
from cluster.preflight.results import Result, Waiting

TRIED_BYTES = 8_000_000
LINK_SECONDS = 15.0
"""For both ends of a link to find each other and to send."""
START_SECONDS = 180.0
"""For probes to start: they import torch."""
SLOW_SECONDS = 1.0
"""What a step's exchange over one link may take before people are warned."""
MOST_FAILURES = 2
"""Of one node; its other links are not tried then, for each takes until the time limit."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two ends, which are numbers of probes."""

    first: int
    second: int
    name: str


def check_links(ray: Any, plan: Plan, hosts: Sequence[Node], *, one_node_too: bool) -> list[Result]:
    """hosts: nodes that may have columns. one_node_too: whether to try the link inside the only node."""
    between = len(hosts) > 1 and plan.mesh.replicas > 1
    inside = plan.mesh.size > 1 and (one_node_too or len(hosts) > 1)
    if not (between or inside) or not hosts:
        why = "there is one node" if plan.mesh.size > 1 else "the run is one process"
        return [Result(name="links", state="skipped", what=f"{why}, so nothing is exchanged between nodes")]
    count = len(hosts)
    ends = [*hosts, *hosts] if inside else list(hosts)
    rounds = list(_rounds(hosts)) if between else []
    if inside:
        rounds.append([Pair(first=i, second=i + count, name=f"within {hosts[i].name}") for i in range(count)])
    probes, results = _Probes(ray, ends), []
    measured: dict[Pair, Link] = {}
    try:
        late = probes.start()
        results += [Result(name="links", where=node.name, what=_late(), todo=_todo_late()) for node in late]
        failures = [0] * len(ends)
        for number, pairs in enumerate(rounds):
            probes.waiting.say(f"trying links between nodes, round {number + 1} of {len(rounds)}")
            tried = [p for p in pairs if max(failures[p.first], failures[p.second]) < MOST_FAILURES and probes.have(p)]
            for pair, outcome in probes.measure(tried).items():
                if isinstance(outcome, Link):
                    measured[pair] = outcome
                    continue
                failures[pair.first] += 1
                failures[pair.second] += 1
                results.append(_broken(pair, outcome))
    finally:
        probes.end()
    results += _slow(plan, measured, count)
    return results or [Result(name="links", state="ok", what=_words(measured))]


class _Probes:
    def __init__(self, ray: Any, ends: Sequence[Node]) -> None:
        self._ray, self._ends = ray, ends
        self._actors: list[Any] = [None] * len(ends)
        self.waiting = Waiting()

    def have(self, pair: Pair) -> bool:
        return self._actors[pair.first] is not None and self._actors[pair.second] is not None

    def start(self) -> list[Node]:
        """Start them all; returns the nodes of those that did not."""
        self._actors = [self._new(node) for node in self._ends]
        asked = [actor.ready.remote() for actor in self._actors]
        late = {}
        for number, outcome in enumerate(self._outcomes(asked, START_SECONDS, "probes of links to start")):
            if isinstance(outcome, str):
                late[self._ends[number].id] = self._ends[number]
                self._kill(number)
        return list(late.values())

    def measure(self, pairs: Sequence[Pair]) -> dict[Pair, Link | str]:
        """All at once; what went wrong, in words, in the place of a measurement."""
        opening = [self._actors[pair.first].open.remote(LINK_SECONDS) for pair in pairs]
        ports = self._outcomes(opening, LINK_SECONDS, "links to open")
        asked, found = {}, dict[Pair, Link | str]()
        for pair, port in zip(pairs, ports, strict=True):
            if isinstance(port, str):
                found[pair] = port
                continue
            address = self._ends[pair.first].address
            asked[pair] = [
                self._actors[number].measure.remote(end, address, port, TRIED_BYTES, LINK_SECONDS)
                for end, number in enumerate((pair.first, pair.second))
            ]
        both = [reference for references in asked.values() for reference in references]
        outcomes = iter(self._outcomes(both, 2 * LINK_SECONDS, "links to be tried"))
        for pair in asked:
            sides = [next(outcomes), next(outcomes)]
            wrong = [side for side in sides if isinstance(side, str)]
            found[pair] = wrong[0] if wrong else min(sides, key=lambda link: link.bytes_per_second)
            if wrong:  # a process that is stuck in gloo cannot be called back
                for number in (pair.first, pair.second):
                    self._kill(number)
                    self._actors[number] = self._new(self._ends[number])
        return found

    def end(self) -> None:
        for number in range(len(self._actors)):
            self._kill(number)

    def _new(self, node: Node) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return (
            self._ray.remote(LinkProbe)
            .options(
                num_cpus=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
                runtime_env={"env_vars": NO_GPUS},
            )
            .remote(node.address)
        )

    def _kill(self, number: int) -> None:
        if self._actors[number] is not None:
            with contextlib.suppress(Exception):  # gone already
                self._ray.kill(self._actors[number])
        self._actors[number] = None

    def _outcomes(self, references: Sequence[Any], seconds: float, what: str) -> list[Any]:
        """What each returned; a text for what failed, or did not come in time."""
        left, passed = list(references), 0.0
        while left and passed < seconds:
            _, left = self._ray.wait(left, num_returns=len(left), timeout=1.0)
            passed += 1.0
            self.waiting.say(f"waiting for {what}: {len(references) - len(left)} of {len(references)}")
        found: list[Any] = []
        for reference in references:
            if reference in left:
                found.append(f"no answer within {seconds:g} s")
                continue
            try:
                found.append(self._ray.get(reference, timeout=0))
            except Exception as error:  # of torch, of Ray: whatever it is, it is why the link failed
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                found.append(lines[-1][:200] if lines else type(error).__name__)
        return found


def _rounds(nodes: Sequence[Node]) -> Iterator[list[Pair]]:
    """Every pair once, each node at most once in a round: a tournament by the circle method."""
    ring: list[int | None] = [*range(len(nodes)), *([None] if len(nodes) % 2 else [])]
    for _ in range(len(ring) - 1):
        pairs = zip(ring[: len(ring) // 2], reversed(ring[len(ring) // 2 :]), strict=True)
        yield [
            Pair(first=a, second=b, name=f"{nodes[a].name} and {nodes[b].name}")
            for a, b in pairs
            if a is not None and b is not None
        ]
        ring = [ring[0], ring[-1], *ring[1:-1]]


def step_bytes(plan: Plan, *, inside: bool) -> int:
    """That one step sends over one link: a column's exchange within a node; between nodes the ring all-reduce of the gradients of
    all columns, which share the node's link."""
    if inside:
        # On GPUs columns do not talk over gloo, which is all that is measured here.
        return plan.exchanged_bytes if plan.mesh.device == "cpu" else 0
    replicas = plan.mesh.replicas
    return 2 * (replicas - 1) * FLOAT_BYTES * plan.parameters // replicas


def _slow(plan: Plan, measured: dict[Pair, Link], count: int) -> list[Result]:
    results = []
    for pair, link in measured.items():
        size = step_bytes(plan, inside=pair.second >= count)
        seconds = size / link.bytes_per_second
        if seconds > SLOW_SECONDS:
            results.append(
                Result(
                    name="links",
                    state="warning",
                    where=pair.name,
                    what=f"{_speed(link)}; the {size / 1e6:,.0f} MB of one step would take {seconds:.1f} s",
                    todo="use a faster network between nodes, a larger train.batch_size, or fewer nodes",
                )
            )
    return results


def _broken(pair: Pair, why: str) -> Result:
    return Result(
        name="links",
        where=pair.name,
        what=f"{TRIED_BYTES / 1e6:g} MB did not come through over gloo within {LINK_SECONDS:g} s: {why}",
        todo="see that no firewall closes TCP ports between the nodes, and that the network check names the right interfaces",
    )


def _late() -> str:
    return f"a process that imports torch did not start within {START_SECONDS:g} s"


def _todo_late() -> str:
    return "try `python -c 'import torch'` there; a slow shared disk, or too little memory, would show"


def _words(measured: dict[Pair, Link]) -> str:
    if len(measured) <= 3:
        return "; ".join(f"{pair.name}: {_speed(link)}" for pair, link in measured.items())
    slowest = min(measured, key=lambda pair: measured[pair].bytes_per_second)
    latency = max(link.latency_seconds for link in measured.values())
    slowest_said = f"the slowest {slowest.name}: {_speed(measured[slowest])}"
    return f"{len(measured)} links, {slowest_said}; latency up to {1000 * latency:.2f} ms"


def _speed(link: Link) -> str:
    return f"{link.bytes_per_second / 1e6:,.0f} MB/s, {1000 * link.latency_seconds:.2f} ms"
