"""A Slurm cluster in one machine: a controller, a login shell and two nodes with a generic GPU, all on loopback.

As root, with Debian's `slurm-wlm` and `munge`. Everything lives in namespaces of its own (Linux's `unshare`): the only
network is loopback, /etc/slurm and the daemons' folders are mounted over with empty ones, and when the first process
ends, however it ends, the kernel ends all others and drops the mounts. So nothing of the machine is changed and nothing
has to be restored. A node is a further namespace, with a host name, process numbers and a /var/tmp of its own: killing
its first process is what a power cut is to a node.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = {"slurmctld": "slurm-wlm", "munged": "munge"}
NODES = {"node1": 17001, "node2": 17002}
GPUS_PER_NODE = 2
OWN_FOLDERS = (
    "/etc/slurm",
    "/etc/munge",
    "/run",
    "/var/lib/munge",
    "/var/log/munge",
    "/var/lib/slurm",
    "/var/log/slurm",
)
STATE = Path("/run/cluster")

# A node that does not answer for 12 s is down; a job of it starts again after the 10 s that its credential is good for.
CONFIGURATION = """\
ClusterName=simulated
SlurmctldHost=controller(127.0.0.1)
AuthType=auth/munge
AuthInfo=cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation={state}/controller
SlurmctldLogFile={state}/controller.log
SlurmctldPidFile={state}/controller.pid
SlurmdSpoolDir={state}/%n
SlurmdLogFile={state}/%n.log
SlurmdPidFile={state}/%n.pid
SlurmdParameters=config_overrides
SlurmdTimeout=12
ReturnToService=2
MinJobAge=3600
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog={state}/note
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=5
JobRequeue=1
GresTypes=gpu
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=1-0 LLN=YES
PartitionName=gpu Nodes=ALL MaxTime=1-0 LLN=YES
"""


# Run by Slurm before each step, with the step's environment: which node, which GPU.
NOTE = f"""\
#!/bin/sh
echo "$SLURM_JOB_ID $SLURMD_NODENAME ${{CUDA_VISIBLE_DEVICES:-none}}" >> {STATE}/steps
"""


class ClusterError(Exception):
    """The cluster does not come up; the message says what is missing."""


def install() -> None:
    """Debian's packages of Slurm and munge, where they are absent."""
    missing = [package for program, package in PACKAGES.items() if not shutil.which(program, path="/usr/sbin:/sbin")]
    if missing:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True, env=environment
        )


def enter() -> None:
    """Start this script again in namespaces of its own, in place of this process."""
    if os.environ.get("PRUNUS_NAMESPACES"):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # a first process ignores it otherwise
        return
    if os.geteuid() != 0:
        raise ClusterError("needs root: Slurm's daemons, and mounts that only this script sees")
    if Path("/dev/nvidiactl").exists():
        raise ClusterError("the nodes' GPUs are make-believe, and this machine has real ones; use one without")
    unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode:
        raise ClusterError("this machine does not let root make namespaces (`unshare`)")
    install()
    os.environ["PRUNUS_NAMESPACES"] = "1"
    os.execvp("unshare", [*unshare, sys.executable, *sys.argv])


def run(*command: str, **options) -> str:
    """Output of ``command``, without surrounding blanks."""
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout.strip()


class Cluster:
    """The running daemons; ``start`` returns when both nodes are idle."""

    def __init__(self):
        self._nodes = {}

    def start(self) -> None:
        run("ip", "link", "set", "lo", "up")
        run(
            "ip", "address", "add", "192.0.2.1/32", "dev", "lo"
        )  # getaddrinfo finds nothing where all addresses are 127.*
        run("hostname", "controller")
        for folder in OWN_FOLDERS:
            Path(folder).mkdir(parents=True, exist_ok=True)
            run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", folder)
        for folder in ("/run/munge", STATE / "controller"):
            Path(folder).mkdir(parents=True)
        self._configure()
        self._munge()
        subprocess.Popen(["/usr/sbin/slurmctld", "-D"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for name in NODES:
            self.start_node(name)
        self.wait_for_idle()
        run("hostname", "login")

    def _configure(self) -> None:
        nodes, gpus = [], []
        for name, port in NODES.items():
            nodes.append(
                f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={port} "
                f"CPUs=4 RealMemory=8000 Gres=gpu:{GPUS_PER_NODE}"
            )
            for index in range(GPUS_PER_NODE):
                gpus.append(f"NodeName={name} Name=gpu File={STATE}/nvidia{index}")
        for index in range(GPUS_PER_NODE):
            run("mknod", f"{STATE}/nvidia{index}", "c", "1", "3")  # the device of /dev/null
        (STATE / "note").write_text(NOTE)
        (STATE / "note").chmod(0o755)
        Path("/etc/slurm/slurm.conf").write_text(CONFIGURATION.format(state=STATE, nodes="\n".join(nodes)))
        Path("/etc/slurm/gres.conf").write_text("\n".join(gpus) + "\n")

    def _munge(self) -> None:
        key = Path("/etc/munge/munge.key")
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        subprocess.run(["munged", "--force"], check=True, stderr=subprocess.DEVNULL)

    def start_node(self, name: str) -> None:
        """Boot a node: its first process is the one whose death takes all others with it."""
        inside = (
            f"hostname {name} && mount -t tmpfs -o mode=1777 tmpfs /var/tmp && mkdir -p {STATE}/{name} && "
            f"exec /usr/sbin/slurmd -D -N {name}"
        )
        spaces = ["--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        self._nodes[name] = subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", inside], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def kill_node(self, name: str) -> None:
        """A power cut: slurmd, the jobs' steps and everything they started are gone at once, without a word."""
        node = self._nodes.pop(name)
        node.kill()
        node.wait()

    def wait_for_idle(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        states = set()
        while states != {"idle"}:
            if time.monotonic() > deadline:
                logs = "".join(path.read_text()[-2000:] for path in sorted(STATE.glob("*.log")))
                raise ClusterError(f"after {seconds:g} s the nodes are {states or 'unknown'}, not idle\n{logs}")
            time.sleep(0.2)
            with suppress(subprocess.CalledProcessError):  # the controller is not up yet
                states = set(run("sinfo", "--noheader", "--Node", "--format", "%T").split())
