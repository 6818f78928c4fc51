"""One container as a process: its own mounts, pids, hostname, and a private writable view of the machine's files.

The image is the machine itself. Not enforced: memory and CPU limits, seccomp. Enforced: user, group, a read-only root
file system, and everything that namespaces separate.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from testbed.binaries import REPOSITORY
from testbed.controlplane import end_with_parent

DISK_KINDS = {"ext4", "xfs", "btrfs", "overlay", "zfs", "f2fs"}
NOBODY = 65534
PATH = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Mount:
    """A folder or file of the machine at a path of the container."""

    source: Path | None
    """None is memory of the container's own."""
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Launch:
    """How to start a container."""

    name: str
    hostname: str
    network: str
    """Name of the pod's network namespace."""
    folder: Path
    """The pod's own files; the container's log is `<name>.log` in it."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mount, ...]
    user: int
    group: int
    workdir: str = "/"
    read_only: bool = False


class Container:
    """A started container."""

    def __init__(self, process: asyncio.subprocess.Process, launch: Launch) -> None:
        self._process = process
        self._launch = launch

    @classmethod
    async def start(cls, launch: Launch) -> Container:
        """Start it; its output goes to its log."""
        script = launch.folder / f"{launch.name}.sh"
        script.write_text(_script(launch))
        (launch.folder / "tmp").mkdir(exist_ok=True)
        (launch.folder / "tmp").chmod(0o1777)
        (launch.folder / f"{launch.name}.stage").mkdir(exist_ok=True)
        with (launch.folder / f"{launch.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "nsenter", f"--net=/run/netns/{launch.network}",
                "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL", "bash", str(script),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=end_with_parent, env={**_base(), **launch.environment},
            )  # fmt: skip
        return cls(process, launch)

    async def wait(self) -> int:
        """Return the exit code; 128 + n after a signal."""
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def run(self, command: list[str], seconds: float) -> int:
        """Run a command inside it, as a probe or a hook does; 124 when it takes longer."""
        pid = self._first_pid()
        if pid is None:
            return 1
        process = await asyncio.create_subprocess_exec(
            "nsenter", f"--target={pid}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd",
            f"--setgid={self._launch.group}", f"--setuid={self._launch.user}", "--", *command,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            env={**_base(), **self._launch.environment},
        )  # fmt: skip
        try:
            return await asyncio.wait_for(process.wait(), seconds)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return 124

    async def stop(self, grace: float) -> None:
        """Send SIGTERM to its first process, and after so many seconds SIGKILL."""
        self._signal(signal.SIGTERM if grace > 0 else signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), max(grace, 0.1))
        self.kill()
        await self._process.wait()

    def kill(self) -> None:
        """End it at once, as a machine that is gone does."""
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _signal(self, number: signal.Signals) -> None:
        pid = self._first_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _first_pid(self) -> int | None:
        """Return the pid, on the machine, of the container's pid 1."""
        try:
            children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children and self._process.returncode is None else None


def _base() -> dict[str, str]:
    return {
        "PATH": PATH,
        "HOME": "/tmp",
        "USER": "llmbatch",
        "LANG": "C.UTF-8",
        "GRPC_DNS_RESOLVER": "native",
        "PYTHONUNBUFFERED": "1",
    }


def _script(launch: Launch) -> str:
    stage = launch.folder / f"{launch.name}.stage"
    root = stage / "root"
    lines = [
        "set -e",
        "mount --make-rprivate /",
        f"mount -t tmpfs -o mode=755 none {stage}",
        f"mkdir {stage}/upper {stage}/work {root}",
        f"mount -t overlay overlay -o lowerdir=/,upperdir={stage}/upper,workdir={stage}/work {root}",
        *(f"mkdir -p {root}{path} && mount --rbind {path} {root}{path}" for path in _other_disks()),
        *(f"chmod a+rx {root}{path}" for path in _ways_to_the_code()),
        f"mount --rbind /dev {root}/dev && mount -t tmpfs -o mode=1777 none {root}/dev/shm",
        f"mount -t proc proc {root}/proc && mount --rbind /sys {root}/sys",
        *_mount_tmp(launch, stage, root),
        *(line for mount in launch.mounts for line in _mount(mount, root)),
        f"hostname {shlex.quote(launch.hostname)}",
    ]
    if launch.read_only:
        lines.append(f"mount -o remount,ro {root}")
    inside = f"cd {shlex.quote(launch.workdir)} && exec {shlex.join(launch.command)}"
    lines.append(
        f"exec chroot --userspec={launch.user}:{launch.group} --groups={launch.group} {root} "
        f"/bin/bash -c {shlex.quote(inside)}"
    )
    return "\n".join(lines) + "\n"


def _mount_tmp(launch: Launch, stage: Path, root: Path) -> list[str]:
    """Return how /tmp becomes the pod's own, with this repository still in it where it is below /tmp."""
    own = f"mount --bind {launch.folder}/tmp {root}/tmp"
    if not REPOSITORY.is_relative_to("/tmp"):
        return [own]
    source = REPOSITORY if os.path.ismount("/tmp") else f"{root}{REPOSITORY}"
    code = f"{root}{REPOSITORY}"
    return [
        f"mkdir {stage}/code && mount --bind {source} {stage}/code",
        own,
        f"mkdir -p {code} && mount --bind {stage}/code {code}",
    ]


def _mount(mount: Mount, root: Path) -> list[str]:
    # A link such as /var/run would lead out of the container: it is followed here, where the same files are.
    target = shlex.quote(f"{root}{os.path.realpath(mount.target)}")
    if mount.source is None:
        return [f"mkdir -p {target} && mount -t tmpfs -o mode=1777 none {target}"]
    source = shlex.quote(str(mount.source))
    make = f"mkdir -p {target}"
    if mount.source.is_file():
        make = f"mkdir -p $(dirname {target}) && touch {target}"
    lines = [f"{make} && mount --bind {source} {target}"]
    if mount.read_only:
        lines.append(f"mount -o remount,bind,ro {target}")
    return lines


def _other_disks() -> list[str]:
    """Return mount points an overlay of / does not reach."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [where for _, where, kind, *_ in mounts if kind in DISK_KINDS and where not in ("/", "/tmp")]


def _ways_to_the_code() -> list[str]:
    """Return the folders on the way to this repository and its interpreter: all users of a container may pass."""
    places = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve()}
    folders = {parent for place in places for parent in (place, *place.parents) if parent.is_dir()}
    return sorted(str(folder) for folder in folders - {Path("/"), Path("/tmp")})
