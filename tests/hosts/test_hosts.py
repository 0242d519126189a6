"""That pretend hosts are apart, fail as real ones do, and leave nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.hosts.hosts import PROJECT, Hosts, HostsError

pytestmark = pytest.mark.hosts

CONNECT = (
    "exec 3<>/dev/tcp/$0/22; read -ru 3; echo connected; read -rt 3 -u 3; [ $? = 1 ] && echo closed || echo silence"
)
"""Of bash: to the sshd of a host, which says its version first. `read` ends with 1 at the end of a file."""


@pytest.fixture(scope="module")
def hosts(make_hosts: Callable[..., Hosts]) -> Hosts:
    return make_hosts(["a", "b"])


def test_hosts_log_in_by_name_and_share_neither_tmp_nor_home_nor_memory_nor_processes(hosts: Hosts) -> None:
    command = "ssh -o StrictHostKeyChecking=no b 'hostname; whoami; pwd; which python'"
    told = hosts.exec("a", "bash", "-c", command).splitlines()
    assert told[-4:] == ["b", "root", "/tmp/home", str(Path(sys.executable).parent / "python")]
    for place in ("/tmp", "/tmp/home", "/dev/shm", "/run"):
        hosts.exec("a", "touch", f"{place}/mine")
        assert "mine" in hosts.exec("a", "ls", place)
        assert "mine" not in hosts.exec("b", "ls", place)
        assert not Path(place, "mine").exists()
    sleeper = hosts.popen("a", "sleep", "1234", stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while "sleep 1234" not in hosts.processes("a").values():
            assert time.monotonic() < end, hosts.processes("a")
            time.sleep(0.05)
        assert "1234" not in hosts.exec("b", "ps", "-ef")
        hosts.interrupt(sleeper)
        assert sleeper.wait(60) in (-signal.SIGINT, 128 + signal.SIGINT)
        assert "sleep 1234" not in hosts.processes("a").values()
    finally:
        sleeper.kill()


def test_cut_cable_is_silence_until_it_is_plugged_in_and_meets_no_other_set(
    hosts: Hosts, make_hosts: Callable[..., Hosts]
) -> None:
    reach = ("timeout", "2", "bash", "-c", f"</dev/tcp/{hosts.address('b')}/22")
    hosts.exec("a", *reach)
    hosts.cut("b")
    with pytest.raises(HostsError, match="exit code 124"):  # of `timeout`: no answer at all
        hosts.exec("a", *reach)
    hosts.join("b")
    hosts.exec("a", *reach)
    other = make_hosts(["a", "b"])
    hosts.exec("a", "touch", "/tmp/of-the-first")
    other.exec("a", "test", "!", "-e", "/tmp/of-the-first")
    other.cut("b")
    hosts.exec("a", *reach)
    other.down()


def test_power_loss_closes_no_connection_and_the_disk_survives(hosts: Hosts) -> None:
    def connected() -> "subprocess.Popen[str]":
        client = hosts.popen("a", "bash", "-c", CONNECT, hosts.address("b"), stdout=subprocess.PIPE)
        assert client.stdout is not None and client.stdout.readline() == "connected\n"
        return client

    # A process that is killed does close its connection; or the silence below would not show anything.
    client = connected()
    hosts.exec("b", "pkill", "-KILL", "--newest", "sshd")
    assert client.communicate(timeout=60)[0] == "closed\n"
    hosts.exec("b", "bash", "-c", "echo kept > ~/note; echo lost > /tmp/note")
    client = connected()
    hosts.power_off("b")
    assert client.communicate(timeout=60)[0] == "silence\n"
    with pytest.raises(HostsError, match="b is off"):
        hosts.exec("b", "true")
    hosts.boot("b")
    assert hosts.exec("b", "cat", "/tmp/home/note") == "kept\n"
    hosts.exec("b", "test", "!", "-e", "/tmp/note")


def test_what_goes_wrong_is_told(hosts: Hosts, make_hosts: Callable[..., Hosts], tmp_path: Path) -> None:
    """A command that takes too long is ended too."""
    with pytest.raises(HostsError, match=r"(?s)a: bash .*took more than 1 s:\nso far"):
        hosts.exec("a", "bash", "-c", "echo so far; sleep 4321; true", seconds=1)
    assert not [line for line in hosts.processes("a").values() if "4321" in line]
    with pytest.raises(HostsError, match=r"(?s)a did not come up.*mount: /dev/shm: "):
        Hosts(["a"], tmp_path / "set", shm="no such size").up()
    with pytest.raises(HostsError, match="is not empty"):
        Hosts(["a"], tmp_path).up()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_however_the_maker_ends(make_hosts: Callable[..., Hosts], tmp_path: Path, number: int) -> None:
    program = f"""
import signal, time
from pathlib import Path
from tests.hosts.hosts import Hosts
signal.signal(signal.SIGINT, signal.default_int_handler)
with Hosts(["a", "b"], Path({str(tmp_path / "set")!r})) as hosts:
    hosts.popen("a", "sleep", "1234", stdout=-3)
    while not hosts.processes("a"):
        time.sleep(0.01)
    print(hosts.pid("a"), hosts.pid("b"), *hosts.processes("a"), flush=True)
    time.sleep(600)
"""
    maker = subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert maker.stdout is not None
    told = [psutil.Process(int(word)) for word in maker.stdout.readline().split()]
    family = {*psutil.Process(maker.pid).children(recursive=True), *told}
    # unshare, first process and sshd of each host; unshare (become bash) of the switch; and sleep behind its door.
    assert len(told) == 3 and len(family) >= 8
    os.kill(maker.pid, number)
    maker.wait(60)
    maker.stdout.close()
    _, left = psutil.wait_procs(family, timeout=60)
    assert not left
    end = time.monotonic() + 60  # the kernel takes namespaces down behind its last process's back
    while str(tmp_path) in Path("/proc/self/mounts").read_text() or [
        name for name in os.listdir("/sys/class/net") if name.startswith(("port", "br0"))
    ]:
        assert time.monotonic() < end
        time.sleep(0.05)
