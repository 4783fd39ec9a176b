"""Hand a script over to the warm process (tools/warm.py), which has imported torch and the like and forks a copy of
itself for each script: starting Python and torch takes longer than training a small network for an epoch.

A script's first import. Where a warm process runs the script, the import does not return: this process waits, passes
signals on, and ends as the copy ends. Where there is none and none can be started, or with PRUNUS_WARM=0, the import
returns at once and the script runs here.
"""

import fcntl
import hashlib
import os
import select
import signal
import socket
import sys
from contextlib import suppress

from prunus import IS_SCRIPT, ROOT

SERVER = f"{ROOT}/tools/warm.py"
SWITCH = "PRUNUS_WARM"  # 0: every script runs by itself
LAUNCHER = "PRUNUS_LAUNCHER"  # the process for which a script runs: when it is gone, the script ends
PATIENCE = 60  # seconds that the warm process gets to import packages, or to answer
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# Variables that the loader, Python and libraries read once, when they start.
READ_ONCE = ("LD_", "PYTHON", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "BLIS_", "NUMEXPR_", "DNNL_", "ONEDNN_")
READ_ONCE += ("ATEN_", "TORCH", "PYTORCH", "MALLOC_", "GLIBC_", "CUDA_HOME", "CUBLAS_", "LANG", "LC_", "TZ", "TQDM_")
READ_ONCE += ("FSSPEC_", "SCIPY_", "SKLEARN_", "PSUTIL_", "NPY_")
STATUS = ("Umask", "Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "Seccomp:", "Cpus_allowed:", "Mems_allowed:", "SigIgn")
STATUS += ("SigBlk",)


def _inherited() -> str:
    """What a process hands down to its copies and a client does not hand over: limits, priority, namespaces and so on,
    and what its packages are. A warm process serves clients in which all of it is the same, and no others."""
    texts = [sys.version, sys.executable, sys.prefix]
    packages = [path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)]
    texts += [f"{path} {os.stat(path).st_mtime_ns}" for path in packages]
    texts += [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith(READ_ONCE)]
    for path in (SERVER, "/proc/self/limits", "/proc/self/cgroup", "/proc/self/oom_score_adj"):
        with open(path, encoding="utf-8") as file:
            texts.append(file.read())
    with open("/proc/self/status", encoding="utf-8") as file:
        texts += [line for line in file if line.startswith(STATUS)]
    texts += [os.readlink(entry) for entry in os.scandir("/proc/self/ns")]
    texts += [str(os.getpriority(os.PRIO_PROCESS, 0)), str(os.sched_getscheduler(0))]
    return "\n".join(texts)


def _folder() -> str:
    """A folder that only this user can enter. Raises ``OSError`` where it is someone else's."""
    path = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"prunus-{os.getuid()}-warm")
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if found.st_uid != os.getuid() or found.st_mode != 0o40700:
        raise PermissionError(f"{path} is not this user's alone")
    return path


def _connect() -> socket.socket:
    """A connection to the warm process for this one's surroundings, which is started where there is none."""
    folder, key = _folder(), hashlib.sha256(os.fsencode(_inherited())).hexdigest()[:24]
    path = f"/proc/self/fd/{os.open(folder, os.O_PATH)}/{key}"  # short: a socket's path has at most 107 bytes
    connection = socket.socket(socket.AF_UNIX)
    with suppress(FileNotFoundError, ConnectionRefusedError):
        connection.connect(path)
        return connection
    with open(os.path.join(folder, "starting"), "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        with suppress(FileNotFoundError, ConnectionRefusedError):
            connection.connect(path)
            return connection
        with suppress(FileNotFoundError):
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1024)
            _start(listener, os.path.abspath(os.path.join(folder, key)))
        connection.connect(path)
    return connection


def _start(listener: socket.socket, path: str) -> None:
    import subprocess

    null, command = subprocess.DEVNULL, [sys.executable, SERVER, path]
    subprocess.run(command, stdin=listener, stdout=null, stderr=null, cwd="/", start_new_session=True)


def _watched() -> list[int]:
    """A descriptor that is readable once the launcher is gone, if there is one. Ends this process if it is gone."""
    launcher = os.environ.get(LAUNCHER) or (os.getppid() if "DVC_STAGE" in os.environ else None)
    try:
        return [os.pidfd_open(int(launcher))] if launcher else []
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
    except (OSError, ValueError):
        return []


def _bytes(connection: socket.socket, watched: list[int], count: int, timeout: float | None = None) -> bytes:
    """The next ``count`` bytes; fewer if the connection ends, or after ``timeout`` seconds. Without its launcher this
    process ends."""
    received = b""
    while len(received) < count:
        ready, _, _ = select.select([connection, *watched], [], [], timeout)
        if not set(ready).isdisjoint(watched):
            os.kill(os.getpid(), signal.SIGKILL)
        more = connection.recv(count - len(received)) if ready else b""
        if not more:
            break
        received += more
    return received


def _pass_signals_on(pid: int) -> None:
    """To the copy and all that it started; Ctrl-Z stops them and, once this process continues, they do."""

    def pass_on(number, frame):
        with suppress(ProcessLookupError):
            os.killpg(pid, number)

    def pause(number, frame):
        pass_on(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)
        pass_on(signal.SIGCONT, frame)

    for number, handler in (dict.fromkeys(PASSED_ON, pass_on) | {signal.SIGTSTP: pause}).items():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _started(connection: socket.socket, watched: list[int]) -> int | None:
    """The process that runs this script; None where none does."""
    user = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8]
    if int.from_bytes(user, sys.byteorder) != os.getuid():
        return None
    pid = int.from_bytes(_bytes(connection, watched, 4, PATIENCE), sys.byteorder)
    if not pid:
        return None
    place = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    variables = [name + b"=" + value for name, value in os.environb.items()]
    message = b"\0".join([b"%d" % len(sys.argv), *map(os.fsencode, sys.argv), *variables])
    socket.send_fds(connection, [len(message).to_bytes(4, sys.byteorder)], [0, 1, 2, place])
    os.close(place)
    connection.sendall(message)
    return pid


def _hand_over() -> None:
    """Return if the script is to run here; otherwise end as the copy that ran it ended."""
    try:
        watched, connection = _watched(), _connect()
        pid = _started(connection, watched)
    except OSError:
        return
    if pid is None:
        return connection.close()
    _pass_signals_on(pid)
    answer = b""
    with suppress(ConnectionError):
        answer = _bytes(connection, watched, 4)
    ended = int.from_bytes(answer, sys.byteorder, signed=True) if answer else -signal.SIGKILL
    if not answer:  # the warm process was killed, and the copy with it, but not what that has started
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    if ended < 0:
        with suppress(OSError):  # SIGKILL has no handler
            signal.signal(-ended, signal.SIG_DFL)
        os.kill(os.getpid(), -ended)
    os._exit(ended)


def _may_be_handed_over() -> bool:
    able = sys.platform == "linux" and hasattr(os, "pidfd_open") and None not in (sys.stdin, sys.stdout, sys.stderr)
    # orig_argv: not in a copy, nor under a debugger, a profiler or options of Python's.
    return able and IS_SCRIPT and os.environ.get(SWITCH) != "0" and sys.orig_argv[1:] == sys.argv


if _may_be_handed_over():
    _hand_over()
