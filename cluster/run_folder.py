"""A run's folder: its config, log, checkpoints and result; and whether a command begins, continues or has completed it."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from cluster.console import progress
from cluster.failures import RunFailed
from cluster.paths import check_folder
from cluster.provenance import note_start
from cluster.run_state import read_log, read_result, settings_of
from cluster.settings import differences
from configs.errors import UserError, about_os
from configs.loader import parse, to_dict, to_yaml
from configs.schema import Config
from workers import json_lines
from workers.checkpoint_store import keyless, place_of
from workers.data.files import make_folder, whole_file
from workers.data.storage import is_url
from workers.reports import AttemptReport, CheckpointReport

if TYPE_CHECKING:
    from workers.checkpoint import Checkpoint

# A run may go on with other values of these: where and how fast it runs, how long, and what is kept.
CHANGEABLE = (
    "cluster.",
    "fault.",
    "compute.",
    "checkpoint.",
    "runs_folder",
    "data.path",
    "data.verify_checksums",
    "data.cache_folder",
    "data.cache_gigabytes",
    "data.max_corrupt_records",
    "train.epochs",
    "train.steps",
    "train.report_every_steps",
    "train.profile_steps",
)

_held: dict[tuple[int, int], IO[str]] = {}
"""Locks of runs that this process holds, by device and inode: until it ends."""


class RunFolder:
    """`config.yaml` (all settings), `environment.json` (what each start ran on), `lock` (held by the process that trains),
    `log.jsonl` (one report per line), `events/` (the same for TensorBoard), `checkpoints/`, `profile/` if it was asked for, and
    at the end `result.json`."""

    def __init__(self, config: Config) -> None:
        self.path = Path(config.runs_folder) / config.name
        self.config = config
        self.checkpoints = place_of(config, self.path)
        """Where they lie: an absolute folder, or a URL."""
        self.log = self.path / "log.jsonl"
        self.events = self.path / "events"
        self.saved: str | None = None
        """The last checkpoint that was reported."""

    def result(self) -> dict[str, Any] | None:
        """Of the last time that the run came to the end of its program; None if it never did."""
        return read_result(self.path)

    def check_same_experiment(self) -> None:
        """Raises UserError if the folder holds a run with other settings that change what is learned."""
        file = self.path / "config.yaml"
        if not file.is_file():
            return
        try:
            before = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(
                f"{file} is damaged ({error}); choose another name (name=...) or remove {self.path}"
            ) from None
        changed = _changed(before, self._stored_settings(), CHANGEABLE)
        if changed:
            raise UserError(
                f"{self.path} holds a run with other settings:\n"
                + "\n".join(changed)
                + f"\ngive this one another name (name={self.config.name}-2), or remove that folder"
            )

    def hold(self) -> None:
        """Keep the run, if it has a folder, to this process for as long as that lives.

        Raises UserError if another process has it; where the file system has locks across machines, one of any machine.
        """
        if not self.path.is_dir():
            return
        try:
            lock = (self.path / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"the run's folder {self.path} cannot be written: {error}") from None
        about = os.fstat(lock.fileno())
        if (key := (about.st_dev, about.st_ino)) in _held:
            lock.close()
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(lock)
            lock.close()
            raise UserError(
                f"{self.path} is being trained by {holder}; wait for it, stop it (kill it; it saves first), or give this run "
                f"another name (name={self.config.name}-2)"
            ) from None
        except OSError:
            pass  # some network file systems have no such locks; a later attempt still stops the saves of this one
        _held[key] = lock
        with contextlib.suppress(OSError):  # a full disk; the lock is held without it
            lock.truncate(0)
            lock.write(f"process {os.getpid()} of {socket.gethostname()}")
            lock.flush()

    def check_writable(self) -> None:
        """Raises UserError if it is known before that nothing can be written there."""
        check_folder(self.path, "the run's folder")
        if not is_url(self.checkpoints):
            check_folder(self.checkpoints, "the checkpoints' folder")

    def make(self) -> None:
        """Make the folders, and hold the run. Raises UserError as `hold`."""
        with self._writing():
            make_folder(self.path)
            self.hold()
            if not is_url(self.checkpoints):
                make_folder(Path(self.checkpoints))

    def open(self) -> None:
        """Make the folders, and write the config and what this process runs on. From here on later commands, and those that
        only read, take the run as it is now: nothing may be refused any more."""
        self.make()
        with self._writing():
            # Whoever has a key for a URL gives it again; a folder that is passed on should not.
            with whole_file(self.path / "config.yaml") as file:
                file.write(to_yaml(keyless(self.config)).encode())
            note_start(self.path)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"the run's folder {self.path}, or that of its checkpoints, cannot be written: {error}"
            ) from None

    def changes(self) -> list[str]:
        """Settings that differ from those of the last start, none of which changes what is learned but for rounding."""
        with contextlib.suppress(UserError):
            return [line.strip() for line in _changed(settings_of(self.path), self._stored_settings(), ())]
        return []

    def latest(self) -> "Checkpoint | None":
        """The newest committed checkpoint, by its state file alone.

        Raises UserError if there are some of another version, if they belong to a run with other settings, if their place
        cannot be read, or if it is empty though checkpoints were saved: to begin anew by itself would throw days away.
        """
        from workers.checkpoint_list import committed

        try:
            found = committed(self.checkpoints)
        except OSError as error:
            raise self._unusable("read", error) from None
        if not found:
            if was := self._last_saved():
                raise UserError(
                    f"{was} was saved, and there is no checkpoint at {self.checkpoints} now; is it mounted, and is "
                    f"checkpoint.folder as before? To begin this run again, remove {self.path}"
                )
            return None
        self._refuse_other_experiment(found[-1])
        return found[-1]

    def attempts(self) -> int:
        """Made at this run so far, by all commands."""
        return max((report.number for report in read_log(self.log) if isinstance(report, AttemptReport)), default=0)

    def _last_saved(self) -> str | None:
        """The last checkpoint that any command at this run has reported."""
        saved = (report.folder for report in read_log(self.log) if isinstance(report, CheckpointReport))
        return self.saved or max(saved, default=None)

    def next_attempt(self) -> int:
        """Its number, from 1: one that was never used, neither in the log nor beside the checkpoints."""
        from workers.takeover import newest_attempt

        try:
            return max(self.attempts(), newest_attempt(self.checkpoints)) + 1
        except OSError as error:
            raise self._unusable("read", error) from None

    def to_go_on_from(self, attempt: int, say: Callable[[str], None]) -> "Checkpoint | None":
        """The newest checkpoint that is whole, every byte of it read; None if the run has none yet.

        attempt: number of the one that begins; from now on earlier ones write no more.
        Newer ones that are damaged are set aside, and told in one line each. A large one takes seconds, and shows progress.
        Raises UserError for what a person must settle: all are damaged, or of another version, it is another experiment's, a
        later attempt has begun, or the place cannot be read and written.
        """
        from workers.checkpoint_list import newest_whole
        from workers.takeover import TakenOverError, take_over

        self.latest()  # which refuses those of others, before their saves are stopped
        try:
            take_over(self.checkpoints, attempt)
            with progress("checking the checkpoint", scale=1e6, unit="MB") as show:
                found = newest_whole(self.checkpoints, say, set_aside=True, progress=show)
        except TakenOverError as error:
            raise UserError(f"{error}; stop one of the two commands") from None
        except OSError as error:
            raise self._unusable("read and written", error) from None
        return found

    def _unusable(self, how: str, error: OSError) -> UserError:
        return about_os(error, f"the run's checkpoints at {self.checkpoints} cannot be {how}: {error}")

    def _refuse_other_experiment(self, found: "Checkpoint") -> None:
        # Where the first weights came from is of no account any more, and what is stored is the very checkpoint.
        changed = _changed(found.state.get("config"), self._stored_settings(), (*CHANGEABLE, "name", "train.init_from"))
        if changed:
            raise UserError(
                f"{found.folder} belongs to a run with other settings:\n"
                + "\n".join(changed)
                + f"\ngive this one another name (name={self.config.name}-2), or another checkpoint.folder"
            )

    def newest_in_words(self) -> str:
        """The newest checkpoint's folder, or why there is none to name."""
        if self.saved is not None and is_url(self.checkpoints):
            return self.saved  # an object store that was just lost would be asked for half a minute
        try:
            found = self.latest()
        except UserError as error:
            return f"not known ({error})"
        return found.folder if found else "none"

    def _stored_settings(self) -> dict[str, Any]:
        return to_dict(keyless(self.config))

    def write_result(self, result: Mapping[str, Any]) -> None:
        temporary = self.path / "result.tmp"
        try:
            temporary.write_text(json_lines.dumps(result, indent=1), encoding="utf-8")
            temporary.replace(self.path / "result.json")
        except OSError as error:
            raise RunFailed(
                f"the run has come to its end and is saved, but {self.path / 'result.json'} could not be written "
                f"({error.strerror}); make room there, and the same command writes it"
            ) from None


def _read_holder(lock: IO[str]) -> str:
    """Who has the lock, in words. It is written a moment after it was taken."""
    for _ in range(100):
        lock.seek(0)
        if holder := lock.read():
            return holder
        time.sleep(0.01)
    return "another process"


def _changed(before: Any, after: Mapping[str, Any], changeable: tuple[str, ...]) -> list[str]:
    """Lines about the settings that differ, other than these; none if it is not known what they were before."""
    if not before:
        return []
    # Settings that an older version did not know had the default's effect.
    known, _ = parse(before) if isinstance(before, Mapping) else (None, [])
    return [
        f"  {one.path}: {one.before!r} then, {one.after!r} now"
        for one in sorted(differences(to_dict(known) if known else before, after), key=attrgetter("path"))
        if not one.path.startswith(changeable)
    ]
