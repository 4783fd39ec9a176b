"""The warm process: it imports what stages need from other projects, once, and forks a copy of itself for every script
that a client (stages/prunus/run/warm.py) hands over. It ends after a minute without work.

`SOCKET`: where the socket lies on which it listens; a client starts it with that socket as its standard input.

It never imports the project's own code, so that an edit between two stages counts, and never uses a GPU, because a
process that does cannot be forked.
"""

import atexit
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from types import ModuleType

IDLE = 60  # seconds
# What every job needs: no copy is made before these are there. The others follow when no client waits.
FIRST = """
dvc.cli.parser dvc.commands.repro dvc.data_cloud dvc.dirs dvc.rwlock dvc.scm dvc.stage.cache dvc.utils.strictyaml
dvc.repo.artifacts dvc.repo.datasets dvc.repo.metrics dvc.repo.open_repo dvc.repo.params dvc.repo.plots
dvc.repo.reproduce dvc.repo.stage dvc_data.hashfile.db.local fsspec.implementations.memory configobj dulwich.ignore
dulwich.worktree pyparsing psutil ruamel.yaml numpy pydantic.fields pydantic.types tqdm torch
"""
LATER = "safetensors.torch pandas torch_pruning scipy.stats jinja2 torchvision sklearn.datasets"
GPUS = ("/dev/nvidia", "/dev/kfd", "/dev/dri")
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
NUMBER = 4  # bytes of a number on the wire


def import_all(names: Iterable[str], missing: type[Exception] = ImportError) -> None:
    """A machine for stages alone has no DVC. ``missing``: the errors that mean that a package cannot be had."""
    for name in names:
        with suppress(missing):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # copies share what they do not touch


def uses_gpu() -> bool:
    files = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return any(os.readlink(file).startswith(GPUS) for file in files if os.path.exists(file))


class Copies:
    """The copies at work. Each has a process, a descriptor that is readable once that has ended, and its client's
    connection, on which the client gets the exit status. A copy whose client is gone is killed, with all it started."""

    def __init__(self, listener: socket.socket, path: str):
        self.listener, self.path = listener, path
        self.poller = select.poll()
        self.poller.register(listener, select.POLLIN)
        self.ended = {}  # descriptor -> process, connection
        self.clients = {}  # the connection's descriptor -> process

    def accept(self) -> socket.socket | None:
        """Fork a copy for the next client, if it is of this user; in the copy the connection, otherwise None.

        A client that gets none, as where the system has no room for another process, runs its script itself.
        """
        try:
            connection, _ = self.listener.accept()
        except OSError:
            time.sleep(0.1)
            return None
        user = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8]
        if int.from_bytes(user, sys.byteorder) != os.getuid():
            connection.close()
            return None
        try:
            pid = os.fork()
        except OSError:
            connection.close()
            return None
        if not pid:
            # An open copy of another client's connection would hide from that client that the warm process has died.
            self.listener.close()
            for other, (_, others_connection) in self.ended.items():
                os.close(other)
                others_connection.close()
            return connection
        try:
            ended = os.pidfd_open(pid)
        except OSError:
            self.kill_all(pid)
            os.waitpid(pid, 0)
            connection.close()
            return None
        self.ended[ended], self.clients[connection.fileno()] = (pid, connection), pid
        self.poller.register(ended, select.POLLIN)
        self.poller.register(connection, select.POLLRDHUP)
        return None

    def reap(self, ended: int) -> None:
        pid, connection = self.ended.pop(ended)
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT).si_code != os.CLD_EXITED:
            self.kill_all(pid)  # what a killed copy has started
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.poller.unregister(ended)
        os.close(ended)
        if self.clients.pop(connection.fileno(), None):
            self.poller.unregister(connection)
            with suppress(OSError):
                connection.sendall(status.to_bytes(NUMBER, sys.byteorder, signed=True))
        connection.close()

    def kill(self, client: int) -> None:
        pid = self.clients.pop(client)
        self.poller.unregister(client)
        self.kill_all(pid)

    @staticmethod
    def kill_all(pid: int) -> None:
        for kill in (os.killpg, os.kill):  # the copy may not lead its group yet
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)

    def serve(self) -> socket.socket | None:
        """In a copy the connection to its client; None once the warm process has been idle."""
        path, later = self.path, LATER.split()
        while True:
            events = self.poller.poll(0 if later else None if self.ended else IDLE * 1000 * bool(path))
            if not events and later:
                import_all([later.pop(0)], Exception)  # copies are at work
            elif not events and not path:
                return None
            elif not events:  # from here on clients start another process; those that have connected are served
                with suppress(FileNotFoundError):
                    os.unlink(path)
                path = ""
            for descriptor, _ in events:
                if descriptor in self.ended:
                    self.reap(descriptor)
                elif descriptor in self.clients:
                    self.kill(descriptor)
                elif descriptor == self.listener.fileno() and (connection := self.accept()):
                    return connection


def receive(connection: socket.socket) -> tuple[list[str], dict[bytes, bytes], list[int]]:
    """The client's arguments, environment, and its streams and folder as descriptors; ends where the client is gone."""
    length, descriptors, _, _ = socket.recv_fds(connection, NUMBER, NUMBER)
    with connection.makefile("rb") as stream:
        message = stream.read(int.from_bytes(length, sys.byteorder))
    if not message or len(message) < int.from_bytes(length, sys.byteorder):
        os._exit(1)
    count, *fields = message.split(b"\0")
    arguments, variables = fields[: int(count)], fields[int(count) :]
    return [os.fsdecode(field) for field in arguments], dict(field.split(b"=", 1) for field in variables), descriptors


def become(connection: socket.socket) -> ModuleType:
    """Make this copy what a new process of the client's would be; the module in which its script then runs."""
    warm = os.getppid()
    os.setsid()  # a group of its own, for signals that the client passes on
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != warm:
        os._exit(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection.sendall(os.getpid().to_bytes(NUMBER, sys.byteorder))
    sys.argv[:], environment, descriptors = receive(connection)
    connection.close()
    os.fchdir(descriptors[3])
    for target, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, target)
    for descriptor in descriptors:
        os.close(descriptor)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    os.environb.clear()
    os.environb.update(environment)
    with open("/proc/self/comm", "w") as name:  # what `top` shows
        name.write(os.path.basename(sys.argv[0]))
    script = os.path.realpath(sys.argv[0])
    sys.path.insert(0, os.path.dirname(script))
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # Python's own generator is seeded anew by the fork
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = os.path.join(os.getcwd(), sys.argv[0])
    return main


def run(main: ModuleType) -> None:
    """Run the script whose module is ``main``; what it raises is printed, as Python does."""
    # What packages left to do at the end is the warm process's; what the script leaves to do is this copy's. The first
    # two lines are for ``weakref.finalize``, which has no public way to tell them apart.
    weakref.finalize._registry.clear()
    weakref.finalize._registered_with_atexit = False
    atexit.register(end_at_once)
    try:
        with open(main.__file__, "rb") as source:
            code = compile(source.read(), main.__file__, "exec")
        exec(code, vars(main))
        ended.append(0)
    except SystemExit as end:
        ended.append(status_of(end))
    except BaseException:
        try:
            sys.excepthook(*sys.exc_info())
            ended.append(1)
        except SystemExit as end:
            ended.append(status_of(end))


def status_of(end: SystemExit) -> int:
    if end.code is not None and not isinstance(end.code, int):
        print(end.code, file=sys.stderr)
        return 1
    return (end.code or 0) & 0xFF


ended = []  # the copy's exit status


def end_at_once() -> None:
    """Called after all that the script left to do. Python would now hand memory back piece by piece, which takes longer
    than some stages."""
    status = ended[0] if ended else 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for stream in (sys.stdout, sys.stderr):
            if stream is not None and not stream.closed:
                stream.flush()
    except BaseException:
        status = 120  # as Python does
    finally:
        os._exit(status)


if __name__ == "__main__":
    if os.fork():  # no child of the client's, which may be ended with all its children
        os._exit(0)
    os.close(os.pidfd_open(os.getpid()))  # where this fails, clients run their scripts themselves
    (path,) = sys.argv[1:]
    sys.path.pop(0)  # this folder: nothing of it may be imported here
    listener = socket.socket(fileno=os.dup(0))
    import_all(FIRST.split())
    if not uses_gpu() and (connection := Copies(listener, path).serve()):
        run(become(connection))
