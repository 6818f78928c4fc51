"""Builds the operator's image with buildah where no registry can be reached, and runs what is in it.

The base is made here from Debian packages, unpacked and not more, which is how distroless images are made; uv is the
one of this checkout. Both go in through the build arguments that a mirror would use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = ("base-files", "ca-certificates", "libgcc-s1", "libstdc++6", "netbase", "python3", "tzdata")
"""What gcr.io/distroless/python3-debian13 is made of."""
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
CERTIFICATES = Path(os.environ.get("SSL_CERT_FILE", AUTHORITIES))
PROGRAMS = ("buildah", "mmdebstrap", "chroot", "unshare")
USER = "65532:65532"


def missing() -> str:
    """Return why no image can be built here; blank when it can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"needs {', '.join(absent)}" if absent else ""


class Store:
    """Images and containers below a folder."""

    def __init__(self, folder: Path) -> None:
        self._options = ("--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "vfs")

    def run(self, *arguments: str | Path) -> str:
        """Run buildah and return what it prints."""
        command, *rest = (str(argument) for argument in arguments)
        done = subprocess.run(
            ["buildah", *self._options, command, *rest],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"buildah {command}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def scratch(self, name: str, content: Mapping[str, Path], *environment: str) -> None:
        """Make an image of files and unpacked archives, by the path they get."""
        container = self.run("from", "scratch")
        for target, source in content.items():
            self.run("add", "--quiet", container, source, target)
        self.run("config", *(f"--env={line}" for line in environment), container)
        self.run("commit", "--quiet", container, name)
        self.run("rm", container)

    def labels(self, image: str) -> dict[str, str]:
        """Return an image's labels."""
        return dict(self._configuration(image)["Labels"])

    def user(self, image: str) -> str:
        """Return the user that an image runs as."""
        return str(self._configuration(image)["User"])

    def environment(self, image: str) -> dict[str, str]:
        """Return the environment that a container of that image starts with."""
        return dict(line.split("=", 1) for line in self._configuration(image)["Env"])

    def _configuration(self, image: str) -> dict[str, Any]:
        return dict(json.loads(self.run("inspect", "--type", "image", image))["OCIv1"]["config"])

    def unpack(self, image: str) -> Path:
        """Return the root folder of a container of that image."""
        return Path(self.run("mount", self.run("from", "--pull-never", image)))


def build_operator(store: Store, **arguments: str) -> str:
    """Build the operator's image and return its name."""
    store.scratch("localhost/python", {"/": _base(), AUTHORITIES: CERTIFICATES}, f"SSL_CERT_FILE={AUTHORITIES}")
    store.scratch("localhost/uv", {"/uv": REPOSITORY / ".tools/uv/bin/uv"})
    given = {"PYTHON_IMAGE": "localhost/python", "UV_IMAGE": "localhost/uv", **arguments}
    options = [f"--build-arg={name}={value}" for name, value in given.items()]
    store.run("build", "--quiet", "--target=operator", "--tag=localhost/operator", *options, REPOSITORY)
    return "localhost/operator"


def confined(root: Path, *command: str, given: Sequence[Path] = ()) -> list[str]:
    """Return the command line that runs a command in an image as its user, with nothing to write on but /tmp.

    It has to be started with the image's environment, which has no more than the command may count on.

    Args:
        root: The unpacked image.
        command: What to run.
        given: Files that are put into /tmp first.
    """
    copies = [f"cp {file} {root}/tmp/ && chown {USER} {root}/tmp/{file.name}" for file in given]
    steps = [
        f"mount --bind {root} {root}",
        f"mount -o remount,ro,bind {root}",
        f"mount -t tmpfs tmpfs {root}/tmp",
        f"mount -t proc proc {root}/proc",
        f"mount --bind /dev {root}/dev",
        *copies,
        f'exec {shutil.which("chroot")} --userspec={USER} {root} "$@"',
    ]
    script = " && ".join(steps)
    return ["unshare", "--mount", "sh", "-c", script, "sh", *command]


def _base() -> Path:
    """Return an archive of a root file system with Debian's Python (cached)."""
    made = (
        REPOSITORY / ".cache" / "image" / f"{SUITE}-{hashlib.sha256(' '.join(PACKAGES).encode()).hexdigest()[:12]}.tar"
    )
    if made.exists():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    partly = made.with_suffix(".part.tar")
    subprocess.run(
        [
            "mmdebstrap", "--quiet", "--mode=root", "--variant=extract", f"--include={','.join(PACKAGES)}",
            f"--keyring={KEYRING}", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
            SUITE, str(partly), f"deb {MIRROR} {SUITE} main",
        ],
        check=True,
    )  # fmt: skip
    partly.rename(made)
    return made
