"""A script that a warm process runs is, for its caller, the process that was called: input, output, surroundings,
signals, and end. The warm processes here import no packages, and so start at once."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

import warm as server
from prunus.study.layout import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages start by themselves elsewhere")

CLIENT = "import prunus.run.warm\n"
NEEDED = ("stages/prunus/__init__.py", "stages/prunus/run/__init__.py", "stages/prunus/run/warm.py", "tools/warm.py")
WHO = "import os\nprint(os.getppid(), os.getpid())"
WORKS = "import os, time\nprint(os.getppid(), os.getpid(), flush=True)\ntime.sleep(60)"


def until(holds, seconds=20):
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.02)
    return held


def gone(pid):
    """Whether the process has ended, reaped or not."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


class Scripts:
    """A project of one script. Its warm processes are its own, because its copy of their script differs."""

    def __init__(self, root: Path):
        self.root, self.script, self.started = root, root / "stages/script.py", []
        for name in NEEDED:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
        self.change("tools/warm.py", r'(FIRST|LATER) = ("""|").*?\2', r'\1 = ""')

    def change(self, name: str, pattern: str, to: str) -> None:
        path = self.root / name
        text, count = re.subn(pattern, to, path.read_text(), flags=re.DOTALL)
        assert count
        path.write_text(text)

    def write(self, body: str) -> list[str]:
        text = CLIENT + body
        if not self.script.exists() or self.script.read_text() != text:  # others may be about to read it
            self.script.write_text(text)
        return [sys.executable, str(self.script)]

    def start(self, body: str, **options) -> subprocess.Popen:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        environment = os.environ | {"TMPDIR": str(self.root)} | options.pop("env", {})
        # A job that a shell put into the background ignores SIGINT, and its children do as well.
        first = options.pop("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        process = subprocess.Popen(self.write(body), env=environment, preexec_fn=first, **options)
        self.started.append(process)
        return process

    def run(self, body: str, **options) -> subprocess.CompletedProcess:
        process = self.start(body, **options)
        output, error = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, output, error)

    def who(self, **options) -> tuple[int, int, int]:
        """The warm process (this one, if there is none), the one that runs the script, and the one that was called."""
        process = self.start(WHO, **options)
        output, error = process.communicate(timeout=60)
        assert not error
        return *map(int, output.split()), process.pid

    def at_work(self, **options) -> tuple[int, int, subprocess.Popen]:
        """The warm process, its copy, and the client, while the script works."""
        client = self.start(WORKS, **options)
        return *map(int, client.stdout.readline().split()), client


@pytest.fixture
def scripts():
    """A scratch project; a socket's path must be short."""
    root = Path(tempfile.mkdtemp(prefix="warm"))
    scripts = Scripts(root)
    yield scripts
    for process in scripts.started:
        process.kill()
        with process:  # waits, and closes its streams
            pass
    for process in psutil.process_iter(["cmdline"]):
        if str(root / "tools/warm.py") in (process.info["cmdline"] or []):
            process.kill()
    shutil.rmtree(root)


def test_scripts_share_a_process_that_stays(scripts):
    (first, copy, called), (second, _, _) = scripts.who(), scripts.who()
    assert first == second != os.getpid() and copy != called
    assert psutil.Process(first).cmdline()[1] == str(scripts.root / "tools/warm.py")


@pytest.mark.parametrize("how", ["switched off", "under options", "no server", "no folder", "another's folder"])
def test_a_script_runs_by_itself(scripts, how, monkeypatch):
    environment, folder = {}, scripts.root / f"prunus-{os.getuid()}-warm"
    if how == "switched off":
        environment["PRUNUS_WARM"] = "0"
    elif how == "under options":
        command = scripts.write(WHO)
        done = subprocess.run([command[0], "-X", "dev", command[1]], capture_output=True, text=True)
        assert done.stdout.split()[0] == str(os.getpid())
        return
    elif how == "no server":
        (scripts.root / "tools/warm.py").unlink()
    elif how == "no folder":
        environment["TMPDIR"] = str(scripts.root / "absent")
    else:
        folder.mkdir(mode=0o755)
    parent, process, called = scripts.who(env=environment)
    assert (parent, process) == (os.getpid(), called)


def test_a_process_that_cannot_import_leaves_the_work_to_the_script(scripts):
    scripts.change("tools/warm.py", r'FIRST = ""', 'FIRST = "broken"')
    (scripts.root / "broken.py").write_text("raise OSError")
    parent, process, called = scripts.who(env={"PYTHONPATH": str(scripts.root)})
    assert (parent, process) == (os.getpid(), called)


def test_what_is_handed_over(scripts):
    body = """
import os, sys
print(sys.argv[1:], os.getcwd(), os.environ["SECRET"], sys.path[0], __file__, __name__, sys.stdin.read(), os.ttyname)
print("to stderr", file=sys.stderr)
"""
    place = scripts.root / "place"
    place.mkdir()
    command = scripts.write(body.replace(", os.ttyname", ""))
    environment = os.environ | {"TMPDIR": str(scripts.root), "SECRET": "ä \n"}
    outputs = []
    for warm in ("1", "0"):
        done = subprocess.run(
            [command[0], "../stages/script.py", "--seed", "ö x"],
            input="typed",
            cwd=place,
            env=environment | {"PRUNUS_WARM": warm},
            capture_output=True,
            text=True,
        )
        outputs.append((done.stdout, done.stderr, done.returncode))
    assert outputs[0] == outputs[1]
    assert "['--seed', 'ö x']" in outputs[0][0] and "typed" in outputs[0][0] and outputs[0][2] == 0


@pytest.mark.parametrize(
    "end",
    [
        "",
        "raise SystemExit",
        "raise SystemExit(3)",
        "raise SystemExit('one line')",
        "raise SystemExit(257)",
        "import os; os._exit(9)",
        "import os; os.kill(os.getpid(), 15)",
        "import os; os.kill(os.getpid(), 9)",
        "import os; os.abort()",
        "print('unfinished', end='')",
        "import atexit; atexit.register(print, 'last')",
        "import tempfile, os; d = tempfile.TemporaryDirectory(); d.cleanup = lambda: None; import weakref\n"
        "class A: pass\na = A(); weakref.finalize(a, print, 'finalized')",
        "import sys; sys.stdout.close(); raise SystemExit(1)",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(.3), print('thread'))).start()",
    ],
)
def test_the_end_is_the_scripts(scripts, end):
    warm, cold = scripts.run(end), scripts.run(end, env={"PRUNUS_WARM": "0"})
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)


@pytest.mark.parametrize("status", [0, 1])
def test_output_that_nobody_reads_is_a_failure(scripts, status):
    ended = []
    for switch in ("1", "0"):
        reader, writer = os.pipe()
        os.close(reader)
        environment = {"PRUNUS_WARM": switch, "PYTHONUNBUFFERED": ""}
        ended.append(scripts.run(f"print('lost')\nraise SystemExit({status})", stdout=writer, env=environment))
        os.close(writer)
    assert ended[0].returncode == ended[1].returncode == 120


def test_an_error_prints_its_traceback(scripts):
    done = scripts.run("def fail():\n    raise ValueError('why')\nfail()")
    assert done.returncode == 1
    assert "script.py" in done.stderr and done.stderr.endswith("ValueError: why\n")


def test_an_edit_between_two_scripts_counts(scripts):
    module = scripts.root / "stages/prunus/number.py"
    for number in ("1", "22"):
        module.write_text(f"NUMBER = {number}")
        assert scripts.run("from prunus.number import NUMBER\nprint(NUMBER)").stdout == f"{number}\n"


def test_the_process_holds_nothing_of_the_project(scripts):
    body = "import sys\nprint([name for name in sys.modules if name.split('.')[0] == 'prunus'])"
    assert eval(scripts.run(body).stdout) == ["prunus", "prunus.run", "prunus.run.warm"]
    warm, _, _ = scripts.who()
    assert psutil.Process(warm).cwd() == "/"


SURROUNDINGS = {
    "nice": lambda: os.nice(3),
    "umask": lambda: os.umask(0o027),
    "affinity": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    "memory": lambda: __import__("resource").setrlimit(9, (8 << 30, 8 << 30)),
    "variable": None,
}


@pytest.mark.parametrize("kind", SURROUNDINGS)
def test_other_surroundings_have_another_process(scripts, kind):
    """Limits, priority, umask, threads and the like are those of the caller."""
    body = """
import os, resource
umask = os.umask(0)
threads = os.environ.get("OMP_NUM_THREADS")
print(os.getppid(), os.nice(0), umask, os.sched_getaffinity(0), resource.getrlimit(9), threads)
"""
    options = {"env": {"OMP_NUM_THREADS": "3"}} if kind == "variable" else {"preexec_fn": SURROUNDINGS[kind]}
    usual = scripts.run(body).stdout.split(maxsplit=1)
    warm, seen = scripts.run(body, **options).stdout.split(maxsplit=1)
    options["env"] = options.get("env", {}) | {"PRUNUS_WARM": "0"}
    _, alone = scripts.run(body, **options).stdout.split(maxsplit=1)
    assert seen == alone and warm != usual[0] and warm != str(os.getpid())
    if len(os.sched_getaffinity(0)) > 1 or kind != "affinity":
        assert seen != usual[1]


def test_the_gpus_are_the_callers(scripts):
    body = "import os\nprint(os.getppid(), os.environ['CUDA_VISIBLE_DEVICES'])"
    first, second = (scripts.run(body, env={"CUDA_VISIBLE_DEVICES": gpu}).stdout.split() for gpu in ("0", "1"))
    assert first[0] == second[0] and (first[1], second[1]) == ("0", "1")


def test_a_process_that_uses_a_gpu_is_not_forked(monkeypatch):
    assert not server.uses_gpu()
    monkeypatch.setattr(server, "GPUS", ("/dev/null",))
    with open(os.devnull):
        assert server.uses_gpu()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_client_reaches_the_script(scripts, number):
    _, copy, client = scripts.at_work()
    client.send_signal(number)
    _, error = client.communicate(timeout=20)
    assert until(lambda: gone(copy))
    if number == signal.SIGINT:
        assert error == "script.py: stopped by Ctrl-C; the same command goes on\n" and client.returncode == 130
    else:
        assert client.returncode == -number


def test_an_ignored_signal_stays_ignored(scripts):
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731 - as nohup does
    _, copy, client = scripts.at_work(preexec_fn=ignore)
    client.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert client.poll() is None and not gone(copy)
    client.kill()


def test_the_process_is_nobodys_child(scripts):
    """A launcher that is stopped ends its children, and theirs."""
    warm, _, client = scripts.at_work()
    assert warm not in [process.pid for process in psutil.Process(client.pid).children(recursive=True)]


def test_a_package_that_breaks_is_passed_over(scripts):
    scripts.change("tools/warm.py", r'LATER = ""', 'LATER = "broken"')
    (scripts.root / "broken.py").write_text("raise OSError")
    environment = {"PYTHONPATH": str(scripts.root)}
    (first, *_), (second, *_) = (scripts.who(env=environment) for _ in range(2))
    assert first == second != os.getpid()


def test_a_script_whose_launcher_is_gone_does_not_begin(scripts):
    gone_already = subprocess.Popen(["true"])
    gone_already.wait()
    done = scripts.run("print('at work')", env={"PRUNUS_LAUNCHER": str(gone_already.pid)})
    assert done.returncode == -signal.SIGKILL and not done.stdout


def test_ctrl_z_stops_the_script_until_it_continues(scripts):
    _, copy, client = scripts.at_work()
    client.send_signal(signal.SIGTSTP)
    assert until(lambda: psutil.Process(copy).status() == psutil.STATUS_STOPPED)
    assert until(lambda: psutil.Process(client.pid).status() == psutil.STATUS_STOPPED)
    client.send_signal(signal.SIGCONT)
    assert until(lambda: psutil.Process(copy).status() != psutil.STATUS_STOPPED)
    client.terminate()
    assert client.wait(20) == -signal.SIGTERM


CHILD = "import os, subprocess, sys\nchild = subprocess.Popen(['sleep', '60'])\n"
CHILD += "print(os.getppid(), os.getpid(), child.pid, flush=True)\nchild.wait()"


@pytest.mark.parametrize("killed", ["client", "copy", "warm"])
def test_a_kill_leaves_nothing_at_work(scripts, killed):
    client = scripts.start(CHILD)
    warm, copy, child = map(int, client.stdout.readline().split())
    os.kill({"client": client.pid, "copy": copy, "warm": warm}[killed], signal.SIGKILL)
    client.communicate(timeout=20)
    assert client.returncode == -signal.SIGKILL
    assert until(lambda: gone(copy)) and until(lambda: gone(child))
    assert until(lambda: gone(warm)) if killed == "warm" else not gone(warm)
    assert scripts.who()[0] != os.getpid()  # the next one is served


def test_without_its_launcher_a_script_ends(scripts):
    with subprocess.Popen(["sleep", "60"]) as launcher:
        _, copy, client = scripts.at_work(env={"PRUNUS_LAUNCHER": str(launcher.pid)})
        launcher.kill()
    client.communicate(timeout=20)
    assert client.returncode == -signal.SIGKILL and until(lambda: gone(copy))


def test_a_script_in_the_background_outlives_its_shell(scripts):
    command = scripts.write("import time, pathlib\ntime.sleep(1)\npathlib.Path('done').touch()")
    shell = f"{command[0]} {command[1]} & sleep .5"
    subprocess.run(["sh", "-c", shell], cwd=scripts.root, env=os.environ | {"TMPDIR": str(scripts.root)}, check=True)
    assert until((scripts.root / "done").exists)


def test_it_ends_when_idle_and_another_one_follows(scripts):
    scripts.change("tools/warm.py", "IDLE = 60 ", "IDLE = 0.5 ")
    warm, _, _ = scripts.who()
    assert not gone(warm) and until(lambda: gone(warm))
    assert not list(scripts.root.glob("prunus-*-warm/?" + "?" * 23))  # its socket
    assert scripts.who()[0] not in (warm, os.getpid())


def test_it_does_not_end_while_a_script_works(scripts):
    scripts.change("tools/warm.py", "IDLE = 60 ", "IDLE = 0.2 ")
    assert scripts.run("import time; time.sleep(1); print('whole')").stdout == "whole\n"


def test_scripts_that_start_at_once_share_one_process(scripts):
    body = WHO + "\nimport time; time.sleep(.2)"
    called = [scripts.start(body) for _ in range(8)]
    assert len({process.communicate(timeout=60)[0].split()[0] for process in called}) == 1


def test_a_long_path_to_the_folder(scripts):
    deep = scripts.root / ("long" * 20) / ("longer" * 20)
    deep.mkdir(parents=True)
    (first, *_), (second, *_) = (scripts.who(env={"TMPDIR": str(deep)}) for _ in range(2))
    assert first == second != os.getpid()


def test_another_package_or_server_means_another_process(scripts):
    first, _, _ = scripts.who()
    scripts.change("tools/warm.py", "IDLE = 60 ", "IDLE = 61 ")
    assert scripts.who()[0] != first


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be someone else")
def test_another_user_is_refused(scripts):
    warm, _, _ = scripts.who()
    (path,) = scripts.root.glob("prunus-*-warm/?" + "?" * 23)
    nobody = pwd.getpwnam("nobody").pw_uid

    scripts.root.chmod(0o755)
    code = f"import socket\nhere = socket.socket(socket.AF_UNIX)\nhere.connect({str(path)!r})\nprint(here.recv(4))"

    def reach(**options):
        return subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True, **options)

    assert "PermissionError" in reach(user=nobody).stderr
    path.parent.chmod(0o755)  # as if the folder were open
    path.chmod(0o777)
    assert reach(user=nobody).stdout == "b''\n"
    assert len(eval(reach().stdout)) == 4
    assert not gone(warm)
