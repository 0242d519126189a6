"""Whose fault a failure is, told from what Ray hands on."""

import pytest
import torch.distributed as dist
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError

from cluster.failures import explain, is_wrong_input, lost_another
from cluster.supervisor import _how
from configs.errors import UserError

CONSTRUCTOR = """The actor died because of an error raised in its creation task, ray::DataWorker.__init__() (pid=7, ip=127.0.0.1)
  File "workers/data/cache.py", line 217, in _room
    raise UserError("no room")
{raised}"""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:40931"), True),
        (dist.DistBackendError("NCCL error: remote process exited or there was a network error"), True),
        (ActorDiedError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (FloatingPointError("the loss is nan"), False),
        (UserError("no such file"), False),
    ],
)
def test_a_lost_connection_is_another_ones_fault(error: Exception, expected: bool) -> None:
    assert lost_another(error) is expected
    assert lost_another(RayTaskError("train", "traceback", error)) is expected


@pytest.mark.parametrize(
    ("raised", "wrong_input"),
    [("configs.errors.UserError: no room; raise data.cache_gigabytes", True), ("ValueError: no room", False)],
)
def test_what_a_constructor_raised(raised: str, wrong_input: bool) -> None:
    text = CONSTRUCTOR.format(raised=raised)
    error = ActorDiedError(RayTaskError("DataWorker.__init__", text, ValueError(text)))
    assert is_wrong_input(error) is wrong_input
    assert explain(error) == raised.removeprefix("configs.errors.UserError: ")


def test_a_process_that_ray_ended_for_memory() -> None:
    assert _how(OutOfMemoryError("Task was killed due to the node running low on memory.")).startswith(
        "Ray ended its process, because its node had hardly any memory left"
    )
