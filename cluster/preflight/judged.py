"""Checks that judge what the nodes answered. Each is a function from `Found` to its results."""

from collections import defaultdict

from cluster.preflight.found import Found
from cluster.preflight.gpus import Gpu
from cluster.preflight.nodes import LOGS, Node
from cluster.preflight.results import Result

STORE_FACTOR = 3
"""Ray begins to spill a store to disk when it is nearly full; with this many times the windows it never is."""


def check_answers(found: Found) -> list[Result]:
    """Whether every node runs a task."""
    results = [
        Result(
            name="answer",
            where=node.name,
            what=found.silent[node.id],
            todo=f"see whether the machine hangs, and {LOGS}/raylet.err there; restart Ray on it, or take it out of the cluster",
        )
        for node in found.nodes
        if node.id in found.silent
    ]
    return results or [Result(name="answer", state="ok", what=f"{len(found.answers)} node(s) run tasks")]


def check_versions(found: Found) -> list[Result]:
    """Against the driver's."""
    results = []
    for node, answer in found.answered:
        other = [name for name, version in found.own.items() if answer.versions.get(name) != version]
        if other:
            differences = ", ".join(f"{name} {answer.versions.get(name)} (here {found.own[name]})" for name in other)
            copies = (
                "bring the same files of this project to both" if other == ["project"] else "install the same there"
            )
            results.append(Result(name="versions", where=node.name, what=differences, todo=copies))
    if results:
        return results
    same = ", ".join(f"{name} {version}" for name, version in found.own.items())
    return [Result(name="versions", state="ok", what=f"{same} on {len(found.answers)} node(s)")]


def check_gpus(found: Found) -> list[Result]:
    """Distinct, as many as Ray believes, and free."""
    if found.plan.mesh.device != "cuda":
        return [Result(name="gpus", state="skipped", what="the run uses none")]
    if not found.hosts:
        return [_nowhere("gpus")]
    results, busy = list[Result](), list[tuple[Node, Gpu]]()
    on_nodes: dict[str, list[Node]] = defaultdict(list)
    for node, answer in found.hosts:
        report = answer.gpus
        if report is None or report.problem:
            told = report.problem if report else "they were not asked for"
            results.append(
                Result(name="gpus", state="warning", where=node.name, what=f"the GPUs are not known: {told}")
            )
            continue
        if len(report.gpus) < node.devices.gpus:
            results.append(
                Result(
                    name="gpus",
                    where=node.name,
                    what=f"Ray was told of {node.devices.gpus} GPU(s), and nvidia-smi shows {len(report.gpus)}",
                    todo="start Ray there with the right --num-gpus, or see `nvidia-smi` for what is wrong with the others",
                )
            )
        if answer.versions.get("torch", "").endswith("+cpu"):
            results.append(
                Result(
                    name="gpus",
                    where=node.name,
                    what=f"torch {answer.versions['torch']} knows no CUDA",
                    todo="install torch's build for CUDA, or set cluster.device=cpu",
                )
            )
        for gpu in report.gpus:
            on_nodes[gpu.uuid].append(node)
            if gpu.busy:
                busy.append((node, gpu))
    results += [_shared(uuid, nodes) for uuid, nodes in on_nodes.items() if len(nodes) > 1]
    # Ray's own actors may use as many; who else does is not to be told apart, so all are named.
    if len(busy) > found.gpus_in_use:
        results += [_in_use(node, gpu) for node, gpu in busy]
    return results or [
        Result(name="gpus", state="ok", what=f"{len(on_nodes)} distinct GPU(s), {len(busy)} of them in use")
    ]


def _shared(uuid: str, nodes: list[Node]) -> Result:
    return Result(
        name="gpus",
        where=" and ".join(node.name for node in nodes),
        what=f"both offer the same GPU {uuid}",
        todo="start Ray once on a machine, or give each node GPUs of its own by CUDA_VISIBLE_DEVICES",
    )


def _in_use(node: Node, gpu: Gpu) -> Result:
    return Result(
        name="gpus",
        # Memory alone may be a desktop's.
        state="failed" if gpu.processes else "warning",
        where=node.name,
        what=f"GPU {gpu.index} ({gpu.model}, {gpu.uuid}) is in use: {gpu.busy}",
        todo="end that, or start Ray there with a CUDA_VISIBLE_DEVICES that leaves this GPU out",
    )


def check_network(found: Found) -> list[Result]:
    """Which interface gloo and NCCL are told to use."""
    if not found.hosts:
        return [_nowhere("network")]
    results, chosen = [], []
    for node, answer in found.hosts:
        if answer.interface is not None:
            chosen.append(f"{answer.interface} ({node.name})")
            continue
        there = "; ".join(f"{name} has {', '.join(found)}" for name, found in sorted(answer.addresses.items()))
        results.append(
            Result(
                name="network",
                where=node.name,
                what=f"no interface has the address {node.address}, so gloo and NCCL would go by the host's name: {there}",
                todo="start Ray there with --node-ip-address= one of these",
            )
        )
    return results or [Result(name="network", state="ok", what=f"gloo and NCCL use {', '.join(chosen)}")]


def check_data(found: Found) -> list[Result]:
    """The same data set, whole by the sizes of its files, on every node that reads it."""
    path = found.plan.config.data.path
    if found.fingerprint is None:
        return [Result(name="data", state="skipped", what=f"{path} is drawn when the run starts")]
    results, readers = [], 0
    for node, answer in found.answered:
        if answer.data is None:
            continue
        readers += 1
        if answer.data.problem:
            results.append(
                Result(
                    name="data",
                    where=node.name,
                    what=answer.data.problem,
                    todo="bring the data set there at the same path, or start Ray there with --num-cpus=0 to keep readers off",
                )
            )
        elif answer.data.fingerprint != found.fingerprint:
            results.append(
                Result(
                    name="data",
                    where=node.name,
                    what=f"{path} is another data set there (fingerprint {answer.data.fingerprint[:12]}, here "
                    f"{found.fingerprint[:12]})",
                    todo="bring the same one there",
                )
            )
    return results or [
        Result(
            name="data",
            state="ok",
            what=f"{path}: fingerprint {found.fingerprint[:12]} and all shards on {readers} node(s)",
        )
    ]


def check_store(found: Found) -> list[Result]:
    """Room for the batches under way, in the object store and in shared memory, of each node that hosts replicas."""
    if not found.hosts:
        return [_nowhere("store")]
    window, results = found.plan.window_bytes, []
    for node, answer in found.hosts:
        replicas = node.replicas(found.plan)
        need = window * replicas
        wanted = f"{replicas} replica(s) may have {_mb(need)} of batches under way here"
        if node.store_bytes < need:
            results.append(
                Result(
                    name="store",
                    where=node.name,
                    what=f"{wanted}, and the object store holds {_mb(node.store_bytes)}: Ray would spill them to disk",
                    todo=f"start Ray there with --object-store-memory={STORE_FACTOR * need}, or lower cluster.window_batches",
                )
            )
        elif answer.shared_total_bytes < need:
            results.append(
                Result(
                    name="store",
                    state="warning",
                    where=node.name,
                    what=f"{wanted}, and /dev/shm has {_mb(answer.shared_total_bytes)} in all: Ray keeps them on disk",
                    todo="enlarge it (docker run --shm-size=..., or mount -o remount,size=... /dev/shm)",
                )
            )
        elif min(node.store_bytes // STORE_FACTOR, answer.shared_free_bytes) < need:
            results.append(
                Result(
                    name="store",
                    state="warning",
                    where=node.name,
                    what=f"{wanted}; the object store holds {_mb(node.store_bytes)}, and /dev/shm has "
                    f"{_mb(answer.shared_free_bytes)} free. {STORE_FACTOR} times as much is safe from spilling to disk",
                )
            )
    if results:
        return results
    least = min((node.store_bytes for node, _ in found.hosts), default=0)
    return [Result(name="store", state="ok", what=f"{_mb(window)} per replica; object stores of {_mb(least)} or more")]


def _nowhere(name: str) -> Result:
    return Result(name=name, state="skipped", what="no node has room for a replica")


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
