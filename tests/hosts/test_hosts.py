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

LISTEN = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
connection, _ = server.accept()
connection.recv(1)
"""
CONNECT = """
import socket, sys, time
for _ in range(100):
    try:
        connection = socket.create_connection((sys.argv[1], 7000))
        break
    except OSError:  # not listening yet; or just booted, and not to be reached yet
        time.sleep(0.05)
connection.settimeout(3)
print("connected", flush=True)
try:
    print("closed" if connection.recv(1) == b"" else "data")
except TimeoutError:
    print("silence")
except ConnectionResetError:
    print("reset")
"""


@pytest.fixture(scope="module")
def hosts(make_hosts: Callable[..., Hosts]) -> Hosts:
    return make_hosts(["a", "b"])


def test_hosts_know_each_other_by_name_and_log_in_without_questions(hosts: Hosts) -> None:
    command = "ssh -o StrictHostKeyChecking=no b 'hostname; whoami; pwd; which python'"
    told = hosts.exec("a", "bash", "-c", command).splitlines()
    assert told[-4:] == ["b", "root", "/tmp/home", str(Path(sys.executable).parent / "python")]


def test_hosts_share_neither_tmp_nor_home_nor_memory_nor_processes(hosts: Hosts) -> None:
    for place in ("/tmp", "/tmp/home", "/dev/shm", "/run"):
        hosts.exec("a", "touch", f"{place}/mine")
        assert "mine" in hosts.exec("a", "ls", place)
        assert "mine" not in hosts.exec("b", "ls", place)
        assert not Path(place, "mine").exists()
    sleeper = hosts.popen("a", "sleep", "1234", stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while "sleep 1234" not in hosts.processes("a").values():
            assert time.monotonic() < end, hosts.processes("a")
            time.sleep(0.05)
        assert "1234" not in hosts.exec("b", "ps", "-ef")
        hosts.interrupt(sleeper)
        assert sleeper.wait(5) in (-signal.SIGINT, 128 + signal.SIGINT)
        assert "sleep 1234" not in hosts.processes("a").values()
    finally:
        sleeper.kill()


def test_cut_cable_is_silence_until_it_is_plugged_in(hosts: Hosts) -> None:
    reach = ("timeout", "2", "bash", "-c", f"</dev/tcp/{hosts.address('b')}/22")
    hosts.exec("a", *reach)
    hosts.cut("b")
    with pytest.raises(HostsError, match="exit code 124"):  # of `timeout`: no answer at all
        hosts.exec("a", *reach)
    hosts.join("b")
    hosts.exec("a", *reach)


def test_power_loss_closes_no_connection_and_the_disk_survives(hosts: Hosts) -> None:
    hosts.exec("b", "bash", "-c", "echo kept > ~/note; echo lost > /tmp/note")
    server = hosts.popen("b", "python", "-c", LISTEN, stdout=subprocess.DEVNULL)
    client = hosts.popen("a", "python", "-c", CONNECT, hosts.address("b"), stdout=subprocess.PIPE)
    assert client.stdout is not None and client.stdout.readline() == "connected\n"
    hosts.power_off("b")
    assert client.communicate(timeout=20)[0] == "silence\n"
    server.wait(5)
    with pytest.raises(HostsError, match="b is off"):
        hosts.exec("b", "true")
    hosts.boot("b")
    assert hosts.exec("b", "cat", "/tmp/home/note") == "kept\n"
    hosts.exec("b", "test", "!", "-e", "/tmp/note")


def test_killed_process_closes_its_connection(hosts: Hosts) -> None:
    """The other kind of death; or the test above would not show anything."""
    server = hosts.popen("b", "python", "-c", LISTEN, stdout=subprocess.DEVNULL)
    client = hosts.popen("a", "python", "-c", CONNECT, hosts.address("b"), stdout=subprocess.PIPE)
    assert client.stdout is not None and client.stdout.readline() == "connected\n"
    hosts.interrupt(server, signal.SIGKILL)
    assert client.communicate(timeout=20)[0] == "closed\n"
    server.wait(5)


def test_command_that_takes_too_long_is_ended_and_its_output_told(hosts: Hosts) -> None:
    with pytest.raises(HostsError, match=r"(?s)a: bash .*took more than 1 s:\nso far"):
        hosts.exec("a", "bash", "-c", "echo so far; sleep 4321; true", seconds=1)
    assert not [line for line in hosts.processes("a").values() if "4321" in line]


def test_two_sets_with_the_same_names_do_not_meet(hosts: Hosts, make_hosts: Callable[..., Hosts]) -> None:
    other = make_hosts(["a", "b"])
    hosts.exec("a", "touch", "/tmp/of-the-first")
    other.exec("a", "test", "!", "-e", "/tmp/of-the-first")
    other.cut("b")
    hosts.exec("a", "bash", "-c", f"</dev/tcp/{hosts.address('b')}/22")
    other.down()


def test_set_in_a_folder_that_is_used_is_refused(hosts: Hosts, tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(HostsError, match="is not empty"):
        Hosts(["a"], tmp_path).up()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_however_the_maker_ends(make_hosts: Callable[..., Hosts], tmp_path: Path, number: int) -> None:
    program = f"""
import time
from pathlib import Path
from tests.hosts.hosts import Hosts
with Hosts(["a", "b"], Path({str(tmp_path / "set")!r})) as hosts:
    hosts.popen("a", "sleep", "1234", stdout=-3)
    while not hosts.processes("a"):
        time.sleep(0.01)
    print(hosts.pid("a"), hosts.pid("b"), hosts._switch.pid, *hosts.processes("a"), flush=True)
    time.sleep(60)
"""
    maker = subprocess.Popen(
        [sys.executable, "-c", program], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert maker.stdout is not None
    pids = [int(word) for word in maker.stdout.readline().split()]
    assert len(pids) == 4
    inside = [child for pid in pids for child in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]]
    assert len(inside) == 6  # first process and sshd of each, the switch, and sleep
    os.kill(maker.pid, number)
    maker.wait(10)
    maker.stdout.close()
    _, left = psutil.wait_procs(inside, timeout=5)
    assert not left
    time.sleep(0.1)  # the kernel takes namespaces down behind its last process's back
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert not [name for name in os.listdir("/sys/class/net") if name.startswith(("port", "br0"))]


def test_host_that_cannot_start_says_why(make_hosts: Callable[..., Hosts], tmp_path: Path) -> None:
    with pytest.raises(HostsError, match=r"(?s)a did not come up.*mount: /dev/shm: "):
        Hosts(["a"], tmp_path / "set", shm="no such size").up()
