"""Pretend hosts: machines of one test, made of Linux namespaces, that can be cut off, powered off and booted again.

Order of a start, and why it leaves nothing behind:
 1. a switch: a process in a network namespace of its own, with a bridge in it;
 2. per host: a first process in namespaces of its own (host_init.sh), a cable from it to the switch, and sshd;
 3. each of these processes waits for the end of its standard input, a pipe that only the caller holds open.
So whatever ends the caller ends them, the kernel then kills all that ran in the host, and with the namespaces go mounts, cables
and addresses. Nothing has a name in the caller's namespaces, so two sets of hosts cannot meet.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import psutil

PROJECT = Path(__file__).parents[2]
NETWORK = "198.18.0"
"""Of the range that is set aside for tests of networks [RFC 2544], and seen by the hosts alone."""
TOOLS = {"sshd": "openssh-server", "ssh-keygen": "openssh-client", "rsync": "rsync", "ip": "iproute2", "ss": "iproute2"}
TOOLS |= {"pgrep": "procps"} | dict.fromkeys(("unshare", "nsenter", "setsid", "flock"), "util-linux")
NAMESPACES = ("--net", "--pid", "--mount", "--uts", "--ipc")
HOME = "/tmp/home"
START_SECONDS = 60.0


class HostsError(Exception):
    """A pretend host did not do what was asked of it; the message has the output of the command."""


def missing() -> str | None:
    """Why hosts cannot be made here, or None if they can."""
    if os.geteuid() != 0:
        return "pretend hosts need root"
    absent = [tool for tool in TOOLS if _which(tool) is None]
    if absent:
        packages = " ".join(sorted({TOOLS[tool] for tool in absent}))
        return f"pretend hosts need {', '.join(absent)}: apt-get install {packages}"
    trial = "ip link add br0 type bridge && ip link add name c0 type veth peer name c1 && mount -t tmpfs tmpfs /run"
    command = ["unshare", *NAMESPACES, "--fork", "--mount-proc", "sh", "-c", trial]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return f"no namespaces, bridge or mounts here: {ran.stderr.strip()}" if ran.returncode else None


class Hosts:
    """Hosts by name, each with an address, sshd with one key for all, a home folder, and a /tmp of its own. A context manager.

    names: of the hosts; every host knows them all.
    folder: where their files stand; it must be empty or absent. Default: a temporary one, removed at the end.
    visible: folders below /tmp that the hosts share with the caller, such as a test's; other places than /tmp, /run and /dev/shm
        are shared anyway.
    profiles: environment variables of some hosts' logins; the Python that runs this comes first on everyone's PATH.

    Raises HostsError if a host does not come up; none is left then.
    """

    def __init__(
        self,
        names: Iterable[str],
        folder: Path | None = None,
        *,
        visible: Iterable[Path] = (),
        profiles: Mapping[str, Mapping[str, str]] | None = None,
        shm: str = "4g",
    ) -> None:
        self.names = list(names)
        self._own_folder = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="hosts-")) if folder is None else folder
        self.folder = self.folder.resolve()
        # This project and its Python may stand below /tmp as well.
        shared = {path.resolve() for path in (*visible, PROJECT, Path(sys.prefix), Path(sys.base_prefix))}
        self._visible = "\n".join(str(path) for path in sorted(shared) if path.is_relative_to("/tmp"))
        self._profiles = profiles or {}
        self._shm = shm
        self._switch: subprocess.Popen[str] | None = None
        self._hosts: dict[str, subprocess.Popen[str]] = {}

    def address(self, name: str) -> str:
        return f"{NETWORK}.{10 + self.names.index(name)}"

    def __enter__(self) -> "Hosts":
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self) -> None:
        """Make the switch and boot all hosts: about 0.3 s each."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if any(self.folder.iterdir()):
                raise HostsError(f"{self.folder} is not empty: another set of hosts stands there, or stood")
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key"))
            script = "ip link add br0 type bridge && ip link set br0 up && echo up && read -r _"
            self._switch = _start(["unshare", "--net", "bash", "-c", script], {})
            _wait_until_up(self._switch, "the switch")
            for name in self.names:
                self._install(name)
                self.boot(name)
        except BaseException:  # Ctrl-C too; it is raised on
            self.down()
            raise

    def boot(self, name: str) -> None:
        """Power on: an empty /tmp and /dev/shm, the home folder as it was, sshd."""
        if name in self._hosts:
            raise HostsError(f"{name} is on")
        assert self._switch is not None, "the hosts are down"
        place = self.folder / name
        settings = {"NAME": name, "ADDRESS": self.address(name), "FOLDER": str(place)}
        settings |= {"VISIBLE": self._visible, "SHM": self._shm}
        command = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        host = _start([*command, "bash", str(Path(__file__).with_name("host_init.sh"))], settings)
        self._hosts[name] = host
        try:
            inside = _child(host, name)
            cable = f"ip link add {self._port(name)} type veth peer name eth0 netns {inside}"
            self._at_switch(*cable.split())
            self._at_switch("ip", "link", "set", self._port(name), "master", "br0", "up")
            assert host.stdin is not None
            host.stdin.write("the cable is in\n")
            host.stdin.flush()
            _wait_until_up(host, name)
        except BaseException:  # Ctrl-C too; it is raised on
            self._halt(name)
            raise

    def cut(self, name: str) -> None:
        """Pull the cable out: packets vanish, and nobody is told."""
        self._at_switch("ip", "link", "set", self._port(name), "down")

    def join(self, name: str) -> None:
        """Plug the cable in again."""
        self._at_switch("ip", "link", "set", self._port(name), "up")

    def power_off(self, name: str) -> None:
        """Power loss: all processes die at once, and no connection is closed."""
        self.cut(name)
        self._halt(name)

    def exec(self, name: str, *command: str, seconds: float = 60, check: bool = True) -> str:
        """Run a command in the host as a login would; returns its standard output and error together.

        Raises HostsError with the output if it takes longer than `seconds`, or if it fails and `check` is set.
        """
        process = self.popen(name, *command, stdout=subprocess.PIPE)
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:  # Ctrl-C too; it is raised on
            os.killpg(process.pid, signal.SIGKILL)  # nsenter and what it runs are one process group
            output, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise HostsError(f"{name}: {' '.join(command)}: took more than {seconds:g} s:\n{output}") from None
        if check and process.returncode:
            raise HostsError(f"{name}: {' '.join(command)}: exit code {process.returncode}:\n{output}")
        return str(output)

    def popen(self, name: str, *command: str, stdout: int | IO[Any]) -> subprocess.Popen[str]:
        """Start a command in the host as a login would, in a process group of its own; standard error goes to stdout too.

        Signals for the command itself go through `interrupt`: the process here only stands before the door.
        """
        shell = [*self.entry(name), "-c", 'cd; . ~/.bashrc; exec "$@"', "-", *command]
        return subprocess.Popen(
            shell,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def entry(self, name: str) -> list[str]:
        """The command that opens a login shell in a host, to be given `-c` or `-i`."""
        return ["nsenter", "--target", str(self.pid(name)), *NAMESPACES, "bash", "--login"]

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": HOME, "USER": "root", "TERM": "dumb", "PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}

    @staticmethod
    def interrupt(process: subprocess.Popen[str], number: int = signal.SIGINT) -> None:
        """Send a signal to a command that `popen` started, and not to nsenter, which would leave it alone in there."""
        for inside in psutil.Process(process.pid).children():
            inside.send_signal(number)

    def pid(self, name: str) -> int:
        """The host's first process, as the caller sees it."""
        if name not in self._hosts:
            raise HostsError(f"{name} is off")
        return _child(self._hosts[name], name)

    def processes(self, name: str) -> dict[int, str]:
        """What runs in the host, whoever started it: command lines by pid as the caller sees them.

        Without the host's first process and sshd.
        """
        first, found = self.pid(name), {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                line = " ".join(process.cmdline())
                if process.pid == first or not line or line.startswith("sshd: ") or "sshd_config" in line:
                    continue
                if os.path.samefile(f"/proc/{process.pid}/ns/pid", f"/proc/{first}/ns/pid"):
                    found[process.pid] = line
        return found

    def down(self) -> None:
        """End everything. Called again, it does nothing."""
        for name in list(self._hosts):
            self._halt(name)
        if self._switch is not None:
            _stop(self._switch)
            self._switch = None
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _install(self, name: str) -> None:
        """A host's disk: accounts, names, keys, and ~/.bashrc."""
        etc, ssh = self.folder / name / "etc", self.folder / name / "home" / ".ssh"
        etc.mkdir(parents=True)
        ssh.mkdir(parents=True)
        # Only root's line is another one. A locked password would keep sshd from taking the key.
        for file, line in (("passwd", f"root:x:0:0:root:{HOME}:/bin/bash"), ("shadow", "root:*:19000:0:99999:7:::")):
            there = Path("/etc", file).read_text(encoding="utf-8").splitlines()
            rest = [row for row in there if not row.startswith("root:")]
            (etc / file).write_text("\n".join([line, *rest]) + "\n", encoding="utf-8")
        (etc / "shadow").chmod(0o600)
        # Every name must be known at once: http servers ask for their own, and nobody would answer for ten seconds.
        known = [f"{self.address(other)} {other}" for other in self.names]
        (etc / "hosts").write_text("\n".join(["127.0.0.1 localhost", *known, f"0.0.0.0 {name}-any"]) + "\n")
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        for file, key in (("id_ed25519", "key"), ("host_key", "key"), ("authorized_keys", "key.pub")):
            shutil.copy(self.folder / key, ssh / file)
        (ssh / "sshd_config").write_text(
            f"ListenAddress {self.address(name)}:22\nListenAddress 127.0.0.1:22\nHostKey {HOME}/.ssh/host_key\n"
            f"AuthorizedKeysFile {HOME}/.ssh/authorized_keys\nPermitRootLogin prohibit-password\n"
            "PasswordAuthentication no\nUsePAM no\nUseDNS no\nStrictModes no\nMaxStartups 50\nPidFile none\n"
        )
        profile = {
            "PATH": f"{Path(sys.executable).parent}:$PATH",
            "RAY_AUTH_MODE": "token",
            **self._profiles.get(name, {}),
        }
        lines = "".join(f'export {key}="{value}"\n' for key, value in profile.items())
        (self.folder / name / "home" / ".bashrc").write_text(lines)

    def _halt(self, name: str) -> None:
        _stop(self._hosts.pop(name))
        # The kernel would remove the cable with the host's namespace, but takes its time, and the next boot needs a new one.
        with contextlib.suppress(HostsError):
            self._at_switch("ip", "link", "del", self._port(name))

    def _port(self, name: str) -> str:
        return f"port{self.names.index(name)}"

    def _at_switch(self, *command: str) -> None:
        assert self._switch is not None, "the hosts are down"
        self._run("nsenter", "--target", str(self._switch.pid), "--net", *command)

    @staticmethod
    def _run(*command: str) -> None:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if ran.returncode:
            raise HostsError(f"{' '.join(command)}: {ran.stderr.strip()}")


def _which(tool: str) -> str | None:
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _start(command: list[str], settings: Mapping[str, str]) -> subprocess.Popen[str]:
    """A process that lives as long as the pipe to it; out of reach of the terminal's Ctrl-C, for the caller tidies up."""
    return subprocess.Popen(
        command,
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _wait_until_up(process: subprocess.Popen[str], what: str) -> None:
    """It says so in a line of its own."""
    assert process.stdout is not None
    output, end = "", time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if select.select([process.stdout], [], [], 0.1)[0]:
            read = os.read(process.stdout.fileno(), 4096).decode(errors="replace")
            if not read:
                break
            output += read
            if "up" in output.splitlines():
                return
    raise HostsError(f"{what} did not come up:\n{output}")


def _child(process: subprocess.Popen[str], what: str) -> int:
    """The first process inside: the only child of `unshare --fork`."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        children = psutil.Process(process.pid).children()
        if children:
            return children[0].pid
        time.sleep(0.01)
    raise HostsError(f"{what} did not start")


def _stop(process: subprocess.Popen[str]) -> None:
    """Kill a host or the switch. The first process inside dies first, and with it all others, before unshare returns."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children():
            child.kill()
            child.wait(START_SECONDS)
        process.kill()
    process.wait(START_SECONDS)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
