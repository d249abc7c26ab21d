"""A PostgreSQL server of one's own: a scratch cluster on the loopback interface, started, stopped and thrown away."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path


def find(program):
    """Return the path of one of PostgreSQL's programs, None where there is none."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return shutil.which(program) or (str(places[-1]) if places else None)


class Server:
    """Use it in a `with` statement; it refuses to run as root, so it runs as the user `postgres` then."""

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="sklr-postgres-"))
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            shutil.chown(self.folder, self.user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", self.folder / "data", "-U", "postgres", "--auth=trust", "--no-sync")
        self.start()
        self.n_databases = 0
        return self

    def __exit__(self, *error):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program, *args):
        command = [find(program), *map(str, args)]
        subprocess.run(command, check=True, user=self.user, cwd=self.folder, stdout=subprocess.DEVNULL)

    def start(self):
        """Start the server and wait until it takes connections."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -F"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", self.folder / "log", "start")

    def stop(self):
        """Stop the server as if its plug were pulled."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def database(self):
        """Make an empty database, and return its URL."""
        self.n_databases += 1
        name = f"search{self.n_databases}"
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", name)
        return self.url(name)

    def url(self, name):
        """Return the URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{name}"
