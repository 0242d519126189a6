from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.hosts.hosts import Hosts, missing


@pytest.fixture(scope="module")
def make_hosts() -> Iterator[Callable[..., Hosts]]:
    """`make_hosts(["head", "w1"], visible=[tmp_path])`: hosts that are up, and gone at the end of the module whatever happens."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:

        def make(*args: Any, **settings: Any) -> Hosts:
            return stack.enter_context(Hosts(*args, **settings))

        yield make
