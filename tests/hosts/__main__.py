"""`python -m tests.hosts NAME ...`: pretend hosts to try things on by hand. They last as long as this command."""

import argparse
import cmd
import shlex
import subprocess
import sys
from pathlib import Path

from tests.hosts.hosts import Hosts, HostsError, missing

EXAMPLES = """\
examples:
  python -m tests.hosts head w1 w2                     three hosts; then type `help`
  python -m tests.hosts head w1 --visible /tmp/shared  with a folder of this machine's /tmp in theirs
"""


class Desk(cmd.Cmd):
    """Each method is a command; Ctrl-D ends all hosts."""

    prompt = "hosts> "

    def __init__(self, hosts: Hosts) -> None:
        super().__init__()
        self._hosts = hosts

    def do_sh(self, line: str) -> None:
        """sh NAME [COMMAND]: a shell in that host, or a command line for it; Ctrl-C does not end it."""
        name, _, command = line.partition(" ")
        subprocess.run(self._hosts.entry(name) + (["-c", command] if command else ["-i"]), env=self._hosts.environment)

    def do_cut(self, name: str) -> None:
        """cut NAME: pull its network cable out."""
        self._hosts.cut(name)

    def do_join(self, name: str) -> None:
        """join NAME: plug the cable in again."""
        self._hosts.join(name)

    def do_power_off(self, name: str) -> None:
        """power_off NAME: it loses power."""
        self._hosts.power_off(name)

    def do_boot(self, name: str) -> None:
        """boot NAME: switch it on again."""
        self._hosts.boot(name)

    def do_EOF(self, _: str) -> bool:
        """Ctrl-D: end."""
        return True

    def emptyline(self) -> bool:
        return False

    def onecmd(self, line: str) -> bool:
        try:
            return bool(super().onecmd(line))
        except (HostsError, ValueError) as error:
            print(f"error: {error}")
            return False


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.hosts",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--visible", type=Path, action="append", default=[], metavar="FOLDER")
    args = parser.parse_args()
    reason = missing()
    if reason is not None:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    try:
        with Hosts(args.names, visible=args.visible) as hosts:
            for name in args.names:
                print(f"{name}: {hosts.address(name)}, enter with: {shlex.join(hosts.entry(name))}")
            Desk(hosts).cmdloop()
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
