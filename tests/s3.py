"""An S3 server on loopback, and a cable to it that can be cut."""

import contextlib
import os
import socket
import threading
from unittest.mock import patch

import pytest
from pyarrow import fs

BUCKET = "checkpoints"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}


class S3Server:
    """moto's, with an empty bucket, and what those who use it need in the environment. Use as a context manager.

    Skips the test where moto is not installed.
    """

    def __init__(self) -> None:
        server = pytest.importorskip("moto.server", reason="moto[server], a pretend S3, is not installed")
        self._server = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)

    def __enter__(self) -> "S3Server":
        self._environment = patch.dict(os.environ, ENVIRONMENT)
        self._environment.start()
        self._server.start()
        self.port: int = self._server.get_host_and_port()[1]
        url = self.url("") + "&allow_bucket_creation=true"
        self.filesystem: fs.FileSystem = fs.FileSystem.from_uri(url)[0]
        self.filesystem.create_dir(BUCKET)
        return self

    def __exit__(self, *why: object) -> None:
        self._server.stop()
        self._environment.stop()

    def url(self, folder: str, *, port: int | None = None) -> str:
        return f"s3://{BUCKET}/{folder}?scheme=http&endpoint_override=127.0.0.1:{port or self.port}&region=us-east-1"


class Cable:
    """A port on loopback that leads to another one, until it is cut."""

    def __init__(self, to: int) -> None:
        self._to, self.port = to, 0
        self.mend()

    def mend(self) -> None:
        """Take connections again, at the same port."""
        self._open, self._ends = True, list[socket.socket]()
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection ends at once, and no new one is taken."""
        self._open = False
        for end in (self._listening, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while self._open:
            try:
                near = self._listening.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
