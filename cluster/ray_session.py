"""Joining a running Ray cluster, or starting a private one on this machine, and leaving it clean."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from configs.errors import UserError


@contextlib.contextmanager
def ray_session(
    address: str | None,
    *,
    num_cpus: int | None = None,
    object_store_bytes: int | None = None,
    dashboard: bool = False,
    metadata: dict[str, str] | None = None,
) -> Iterator[Any]:
    """Yield the connected `ray` module; on the way out disconnect, or stop what was started here.

    address: None starts a private one-node Ray on loopback; "auto" or "host:port" joins a running cluster.
    num_cpus, object_store_bytes, dashboard: for the private Ray only; a running cluster has its own.

    Raises UserError if no cluster answers at `address`.
    """
    # No usage report leaves the machine. Must be set before ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray 2.58 warns about a coming change to CUDA_VISIBLE_DEVICES of actors without GPUs; ours import no CUDA.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray
    from ray.job_config import JobConfig

    job_config = JobConfig(metadata=metadata or {})
    if address is None:
        settings: dict[str, Any] = {"num_cpus": num_cpus, "include_dashboard": dashboard}
        settings["object_store_memory"] = object_store_bytes
        settings["dashboard_host"] = "127.0.0.1"
        # Loopback: a private Ray has no business on the network, and laptops change address under way.
        settings["_node_ip_address"] = "127.0.0.1"
        # A cluster that happens to run on this machine is joined by --address only, never by accident.
        settings["address"] = "local"
    else:
        settings = {"address": address}
    try:
        context = ray.init(job_config=job_config, logging_level=logging.WARNING, log_to_driver=False, **settings)
    except ConnectionError as error:
        raise UserError(
            f"no Ray cluster answers at --address {address} ({error}). "
            "Start one with `ray up ray_cluster.yaml` or `ray start --head`, or leave --address out to run on this machine alone."
        ) from None
    if address is None and dashboard:
        print(f"Ray dashboard: http://{context.dashboard_url}", flush=True)
    try:
        yield ray
    finally:
        ray.shutdown()
