"""Ray's token: a cluster runs programs only for those who have it.

Ray makes one by itself for a cluster of this machine, but lets every user read it; and for a cluster that is named by its
address, it uses the one that is there only if RAY_AUTH_MODE says so.
"""

import os
import secrets
from pathlib import Path

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
FILE = "RAY_AUTH_TOKEN_PATH"
PLACE = Path(".ray/auth_token")
"""In the home folder, where Ray's own commands look for it."""


def use_token(*, make: bool) -> None:
    """Have Ray use the token, in this process and all that it starts, unless RAY_AUTH_MODE is set. For before ray is imported.

    make: if there is none yet; in the home folder, or for this process alone where that cannot be written.
    """
    if MODE in os.environ:
        return
    found = TOKEN in os.environ or FILE in os.environ
    try:
        file = Path.home() / PLACE
        if make and not found:
            _make(file)
        found = found or file.is_file()
    except (OSError, RuntimeError):  # RuntimeError: there is no home folder
        if make:
            os.environ[TOKEN] = secrets.token_hex(32)
            found = True
    if found:
        os.environ[MODE] = "token"


def _make(file: Path) -> None:
    """Only its owner may read it. Raises OSError."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    whole = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(secrets.token_hex(32))
    try:
        os.link(whole, file)
    except FileExistsError:
        pass  # another command made one at the same moment
    finally:
        whole.unlink()
