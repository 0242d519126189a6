"""The preflight of a run: ask all nodes at once, judge, and say in one go what is wrong.

In this order:
 1. the nodes that are there, against those asked for, and whether the run fits on them;
 2. a marker file in the checkpoint folder, then one task per node, which answers for everything that a node can say by itself;
 3. the checks that judge the answers;
 4. links between those nodes that may have columns.
"""

import math
import secrets
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cluster.dataset import load_manifest
from cluster.failures import explain
from cluster.paths import absolute
from cluster.plan import DatasetSize, Plan, make_plan
from cluster.preflight import judged
from cluster.preflight.found import Found
from cluster.preflight.links import check_links
from cluster.preflight.nodes import Node, alive_nodes, check_joined, check_room, wait_for_nodes
from cluster.preflight.probe import Answer, Question, answer, versions
from cluster.preflight.results import Result, Waiting, summary
from cluster.preflight.storage import StorageTest
from configs.errors import UserError
from configs.schema import Config

ANSWER_SECONDS = 60.0
"""For a node to start a process, fetch the project's code and answer."""
POLL_SECONDS = 0.5


def plan_for_cluster(ray: Any, config: Config, dataset: DatasetSize | None) -> Plan:
    """Wait for `cluster.nodes`, then plan with what the cluster has.

    Raises UserError if the config asks for more, and says so if nodes are missing.
    """
    wanted = config.cluster.nodes
    nodes = wait_for_nodes(ray, wanted, config.cluster.start_timeout_seconds)
    try:
        return make_plan(config, 0, dataset, nodes=[node.devices for node in nodes])
    except UserError as error:
        missing = [result.line for result in check_joined(ray, wanted, nodes) if not result.ok]
        raise UserError("\n".join([str(error), *missing])) from None


def preflight(ray: Any, plan: Plan, location: str | None, *, quiet: bool = False) -> None:
    """Before a run: one line if all is well, or none if `quiet`. location: of checkpoints; None: the run writes none.

    Raises UserError that lists all that is wrong.
    """
    started = time.monotonic()
    results = look(ray, plan, location)
    failures = [result for result in results if not result.ok]
    if failures:
        listed = "\n".join(f"  {result.name}: {result.line}" for result in failures)
        raise UserError(f"{len(failures)} thing(s) are wrong with the cluster; nothing was started:\n{listed}")
    for result in results:
        if result.state == "warning":
            print(f"note: {result.name}: {result.line}", flush=True)
    if not quiet:
        print(summary(results, time.monotonic() - started), flush=True)


def report(ray: Any, plan: Plan, location: str) -> int:
    """`--check`: print every result as a line; returns the exit code."""
    started = time.monotonic()
    results = look(ray, plan, location, thorough=True)
    for result in results:
        print(f"{result.state:<8} {result.name:<9} {result.line}")
    print(summary(results, time.monotonic() - started), flush=True)
    return 0 if all(result.ok for result in results) else 2


def look(ray: Any, plan: Plan, location: str | None, *, thorough: bool = False) -> list[Result]:
    """All checks. thorough: also those that take seconds and make little sense on one node."""
    results, hosts = look_at_nodes(ray, plan, location)
    return results + check_links(ray, plan, hosts, one_node_too=thorough)


def look_at_nodes(
    ray: Any, plan: Plan, location: str | None, answer_seconds: float = ANSWER_SECONDS
) -> tuple[list[Result], list[Node]]:
    """All checks but those of links; returns as well the nodes that answer and may have columns."""
    nodes = alive_nodes(ray)
    results = [*check_joined(ray, plan.config.cluster.nodes, nodes), *check_room(plan, nodes)]
    fingerprint, token = _fingerprint(plan), secrets.token_hex(4)
    hosts = [node for node in nodes if node.replicas(plan) > 0]
    with StorageTest(location, token, hosts) if location else nullcontext() as storage:
        usable = location if storage is not None and not storage.problem else None
        answers, silent = ask(
            ray, [_question(plan, node, token, fingerprint, usable) for node in nodes], answer_seconds
        )
        found = Found(
            plan=plan,
            nodes=tuple(nodes),
            answers=answers,
            own=versions(),
            fingerprint=fingerprint,
            # An actor may use a part of one.
            gpus_in_use=math.ceil(
                ray.cluster_resources().get("GPU", 0) - ray.available_resources().get("GPU", 0) - 0.01
            ),
            silent=silent,
        )
        for check in (judged.check_answers, judged.check_versions, judged.check_gpus, judged.check_network):
            results += check(found)
        if storage is not None:
            results += storage.check(plan, {node: said.storage for node, said in answers.items() if said.storage})
    results += judged.check_data(found) + judged.check_store(found)
    return results, [node for node, _ in found.hosts]


def ask(ray: Any, questions: Sequence[Question], seconds: float) -> tuple[dict[str, Answer], dict[str, str]]:
    """Each node its question, all at once. Returns the answers, and why there is none, both by the node's id."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task, waiting, end = ray.remote(answer), Waiting(), time.monotonic() + seconds
    asked = {
        task.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(question.node, soft=False)
        ).remote(question): question
        for question in questions
    }
    left, answers, silent = list(asked), dict[str, Answer](), dict[str, str]()
    while left and time.monotonic() < end:
        done, left = ray.wait(left, num_returns=len(left), timeout=min(POLL_SECONDS, max(end - time.monotonic(), 0)))
        waiting.say(f"waiting for {', '.join(asked[one].address for one in left)} to answer")
        for one in done:
            try:
                answers[asked[one].node] = ray.get(one)
            except Exception as error:  # whatever it is, it is this node's answer
                silent[asked[one].node] = f"it does not run a task: {explain(error)}"
    for one in left:
        silent[asked[one].node] = f"it gave no answer within {seconds:g} s"
        ray.cancel(one, force=True)
    return answers, silent


def _question(plan: Plan, node: Node, token: str, fingerprint: str | None, storage: str | None) -> Question:
    hosts = node.replicas(plan) > 0
    return Question(
        node=node.id,
        address=node.address,
        token=token,
        gpus=hosts and plan.mesh.device == "cuda",
        data=absolute(plan.config.data) if fingerprint and node.takes_data_workers(plan) else None,
        storage=storage if hosts else None,
    )


def _fingerprint(plan: Plan) -> str | None:
    """None if the data set is still to be drawn."""
    config = plan.config
    if plan.dataset is None or (plan.dataset.drawn_first and not Path(config.data.path, "manifest.json").is_file()):
        return None
    return load_manifest(config).fingerprint
