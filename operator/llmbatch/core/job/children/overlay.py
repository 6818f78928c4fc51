"""`spec.podOverlay`: the user's pod template merged into the Ray pods, after Kubernetes' strategic merge.

Merge keys are those of the Kubernetes API (`patchMergeKey` of core/v1). Two things differ: tolerations are
appended, since the API's "replace" would drop the ones a spot worker needs, and an entry of `env` or `volumes`
replaces its namesake whole, since half of `value` and half of `valueFrom` is no variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from llmbatch.errors import SpecError

RAY_CONTAINER = "ray"
FIELD = "spec.podOverlay"

MERGED_BY = {"containers": "name", "initContainers": "name"}
"""Lists whose entries are merged field by field."""
REPLACED_BY = {
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
"""Lists whose entries replace the one with the same key."""
APPENDED = frozenset({"tolerations", "envFrom"})

POD_FIELDS = frozenset(
    {
        "activeDeadlineSeconds",
        "affinity",
        "automountServiceAccountToken",
        "containers",
        "dnsConfig",
        "dnsPolicy",
        "enableServiceLinks",
        "hostAliases",
        "hostIPC",
        "hostNetwork",
        "hostPID",
        "hostUsers",
        "imagePullSecrets",
        "initContainers",
        "nodeSelector",
        "os",
        "overhead",
        "preemptionPolicy",
        "priority",
        "priorityClassName",
        "readinessGates",
        "resourceClaims",
        "resources",
        "runtimeClassName",
        "schedulerName",
        "schedulingGates",
        "securityContext",
        "serviceAccountName",
        "setHostnameAsFQDN",
        "shareProcessNamespace",
        "terminationGracePeriodSeconds",
        "tolerations",
        "topologySpreadConstraints",
        "volumes",
    }
)
"""Fields of a pod's spec that a job may set. Missing on purpose: what KubeRay or the scheduler decides."""
CONTAINER_FIELDS = frozenset(
    {
        "args",
        "command",
        "env",
        "envFrom",
        "image",
        "imagePullPolicy",
        "lifecycle",
        "livenessProbe",
        "name",
        "ports",
        "readinessProbe",
        "resizePolicy",
        "resources",
        "restartPolicy",
        "securityContext",
        "startupProbe",
        "stdin",
        "stdinOnce",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "tty",
        "volumeDevices",
        "volumeMounts",
        "workingDir",
    }
)
"""Fields of a container."""
RAY_DECIDES = frozenset({"args", "command", "restartPolicy"})
"""Fields of the Ray container that KubeRay generates."""
RESERVED_ENV = frozenset({"LLMBATCH_TOKEN", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"})
RESERVED_LABELS = ("ray.io/", "llmbatch.dev/")


def merge_overlay(template: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pod template with the user's overlay merged in; neither argument is changed.

    An empty overlay gives the template itself.

    Raises:
        SpecError: the overlay names a field that does not exist or that is not the user's to set.
    """
    if not overlay:
        return dict(template)
    _check(overlay, [container["name"] for container in template["spec"]["containers"]])
    return _merge(template, overlay)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(base))
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        elif isinstance(value, list) and isinstance(merged.get(key), list):
            merged[key] = _merge_lists(key, merged[key], value)
        else:
            merged[key] = deepcopy(value)
    return merged


def _merge_lists(field: str, base: list[Any], over: list[Any]) -> list[Any]:
    if field in APPENDED:
        return base + [deepcopy(item) for item in over if item not in base]
    key = MERGED_BY.get(field) or REPLACED_BY.get(field)
    if key is None:
        return deepcopy(over)
    merged = {item[key]: item for item in base}
    for item in over:
        same = merged.get(item[key])
        merged[item[key]] = _merge(same, item) if same and field in MERGED_BY else deepcopy(item)
    return list(merged.values())


def _check(overlay: Mapping[str, Any], containers: list[str]) -> None:
    _known(FIELD, overlay, frozenset({"metadata", "spec"}))
    metadata = _mapping(f"{FIELD}.metadata", overlay.get("metadata", {}))
    _known(f"{FIELD}.metadata", metadata, frozenset({"labels", "annotations"}))
    for kind in ("labels", "annotations"):
        _check_marks(f"{FIELD}.metadata.{kind}", metadata.get(kind, {}))
    spec = _mapping(f"{FIELD}.spec", overlay.get("spec", {}))
    _known(f"{FIELD}.spec", spec, POD_FIELDS)
    _check_keys(f"{FIELD}.spec", spec)
    for item in spec.get("containers", []):
        _check_container(f"{FIELD}.spec.containers[{item['name']}]", item, item["name"] in containers)
    for item in spec.get("initContainers", []):
        _check_container(f"{FIELD}.spec.initContainers[{item['name']}]", item, is_there=False)


def _check_marks(field: str, marks: Any) -> None:
    for key, value in _mapping(field, marks).items():
        if not isinstance(key, str):
            raise SpecError.of(f"{field}[{key}]", key, "a key must be a string: put it in quotes")
        if key.startswith(RESERVED_LABELS):
            raise SpecError.of(f"{field}[{key}]", value, f"keys under {' and '.join(RESERVED_LABELS)} are reserved")
        if not isinstance(value, str):
            raise SpecError.of(f"{field}[{key}]", value, "must be a string")


def _check_container(field: str, container: Mapping[str, Any], is_there: bool) -> None:
    _known(field, container, CONTAINER_FIELDS)
    _check_keys(field, container)
    if not is_there and not container.get("image"):
        raise SpecError.of(f"{field}.image", None, f"a container besides {RAY_CONTAINER!r} needs an image")
    if container["name"] != RAY_CONTAINER:
        return
    for name in RAY_DECIDES & set(container):
        raise SpecError.of(
            f"{field}.{name}", container[name], "must be left out: KubeRay sets it for the Ray container"
        )
    for variable in container.get("env", []):
        if variable["name"] in RESERVED_ENV:
            raise SpecError.of(f"{field}.env", variable["name"], "must be left out: llmbatch sets it")


def _check_keys(field: str, mapping: Mapping[str, Any]) -> None:
    """Check that each entry of a keyed list bears its key."""
    for name, value in mapping.items():
        key = MERGED_BY.get(name) or REPLACED_BY.get(name)
        if key is None and name not in APPENDED:
            continue
        if not isinstance(value, list):
            raise SpecError.of(f"{field}.{name}", value, "must be a list")
        for index, item in enumerate(value):
            if not isinstance(item, Mapping) or (key is not None and not isinstance(item.get(key), str | int)):
                raise SpecError.of(f"{field}.{name}[{index}]", item, f"must be a mapping with {key or 'fields'}")


def _known(field: str, mapping: Mapping[str, Any], allowed: frozenset[str]) -> None:
    for key in mapping:
        if key not in allowed:
            raise SpecError.of(f"{field}.{key}", mapping[key], f"unknown or not settable; allowed: {_list(allowed)}")


def _mapping(field: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SpecError.of(field, value, "must be a mapping")
    return value


def _list(names: frozenset[str]) -> str:
    return ", ".join(sorted(names))
