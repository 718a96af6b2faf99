"""Slurm of the distribution's packages in one folder: a controller and two nodes, on free ports of loopback."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.processes import PATIENCE_S, command_line, status, wait_for

NODES = ("n1", "n2")
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

_CONF = """
ClusterName=alexnet
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ReturnToService=2
KillWait=30
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cpus} RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cpus} RealMemory=1000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """The reason why there can be no cluster here; empty if there can."""
    missing = [program for program in _PROGRAMS if shutil.which(program, path=_PATH) is None]
    if missing:
        return f"{missing[0]} is missing (Debian: munge, slurmctld, slurmd, slurm-client)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root here"


class SlurmCluster:
    """Nodes n1 and n2, idle, in a `with` block; jobs that are left at its end are killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._conf = folder / "slurm.conf"
        self.environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(self._conf)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "SlurmCluster":
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        ports, cpus = free_ports(3), os.cpu_count()
        self._conf.write_text(_CONF.format(host=socket.gethostname(), folder=self.folder, ports=ports, cpus=cpus))
        files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        self._start("munged", "--foreground", "--force", *(f"--{k}={self.folder / name}" for k, name in files.items()))
        wait_for("munged", (self.folder / "munge.socket").exists)
        self._start("slurmctld", "-D", "-f", self._conf)
        for node in NODES:
            self.start_node(node)
        return self

    def __exit__(self, *_: object) -> None:
        for daemon in self._daemons.values():
            daemon.terminate()
        for daemon in self._daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a job that does not end
                daemon.wait(5)
            daemon.kill()
            daemon.wait()
        _kill(self._processes())

    def _start(self, program: str, *options: str | Path, name: str = "") -> None:
        command = [program, *map(str, options)]
        with (self.folder / f"{name or program}.output").open("ab") as output:
            self._daemons[name or program] = subprocess.Popen(
                command, env=self.environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node, "-f", self._conf, name=node)
        wait_for(f"{node} to be idle", lambda: self.node_state(node) == "IDLE")

    def kill_node(self, node: str) -> None:
        """Kill all that runs on a node at once, as a power cut does, and tell Slurm."""
        self._daemons[node].kill()
        self._daemons[node].wait()
        tasks = self._processes(f"SLURMD_NODENAME={node}")
        holders = {int(status(task).get("PPid", "0")) for task in tasks}
        _kill([*(pid for pid in holders if command_line(pid).startswith("slurmstepd")), *tasks])
        self.update(f"NodeName={node}", "State=DOWN", "Reason=killed")

    def _processes(self, *marks: str) -> list[int]:
        """Processes of this cluster with these entries in their environment."""
        wanted = {mark.encode() for mark in (f"SLURM_CONF={self._conf}", *marks)}
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
        return found

    def call(self, *command: str | Path, check: bool = True, more: Mapping[str, str] | None = None) -> str:
        """Run one of Slurm's commands; returns its output."""
        environment = self.environment | dict(more or {})
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def submit(
        self, script: Path, options: Sequence[str], arguments: Sequence[str], environment: Mapping[str, str]
    ) -> str:
        """Number of the new job."""
        return self.call("sbatch", "--parsable", *options, script, *arguments, more=environment)

    def node_state(self, node: str) -> str:
        return fields(self.call("scontrol", "show", "-o", "node", node, check=False)).get("State", "")

    def job(self, number: str) -> Mapping[str, str]:
        return fields(self.call("scontrol", "show", "-o", "job", number))

    def update(self, *settings: str) -> None:
        self.call("scontrol", "update", *settings)


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def fields(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
