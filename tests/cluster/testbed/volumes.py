"""The volumes and the environment of a pod's containers, read from the API server as a kubelet does."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any

from llmbatch.cluster.client import KubeClient

Object = dict[str, Any]
TOKEN_SECONDS = 3607
_UNITS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "m": 1e-3,
}


class MissingError(Exception):
    """A ConfigMap or Secret that the pod names is not there: look again later."""


class PodData:
    """What the containers of one pod see of the API server's objects.

    Args:
        client: reads the objects.
        pod: the pod.
        folder: of the pod's own files.
        address: of the pod.
    """

    def __init__(self, client: KubeClient, pod: Object, folder: Path, address: str) -> None:
        self._client = client
        self._pod = pod
        self._folder = folder
        self._address = address
        self._namespace = pod["metadata"]["namespace"]

    async def volumes(self) -> dict[str, Path | None]:
        """Return the folder or file of each volume, by the volume's name; None for one in memory.

        Raises:
            MissingError: an object does not exist.
        """
        return {volume["name"]: await self._volume(volume) for volume in self._pod["spec"].get("volumes") or []}

    async def environment(self, container: Object) -> dict[str, str]:
        """Return the variables of a container.

        Raises:
            MissingError: an object does not exist.
        """
        found: dict[str, str] = {}
        for source in container.get("envFrom") or []:
            kind = "configMapRef" if "configMapRef" in source else "secretRef"
            data = await self._data(kind.removesuffix("Ref"), source[kind]["name"], source[kind].get("optional", False))
            found |= {source.get("prefix", "") + key: value.decode() for key, value in data.items()}
        for variable in container.get("env") or []:
            value = variable.get("value")
            if value is None:
                value = await self._value(variable.get("valueFrom") or {}, container)
            if value is not None:
                found[variable["name"]] = expand(value, found)
        return found

    async def _volume(self, volume: Object) -> Path | None:
        if "hostPath" in volume:
            return Path(volume["hostPath"]["path"])
        if (volume.get("emptyDir") or {}).get("medium") == "Memory":
            return None
        folder = self._folder / "volumes" / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)
        sources = volume["projected"]["sources"] if "projected" in volume else [volume]
        for source in sources:
            for name, content in (await self._files(source)).items():
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
                file.chmod(0o644)
        return folder

    async def _files(self, source: Object) -> dict[str, bytes]:
        if "serviceAccountToken" in source:
            return {source["serviceAccountToken"]["path"]: (await self._token(source["serviceAccountToken"])).encode()}
        if "downwardAPI" in source:
            items = source["downwardAPI"].get("items") or []
            return {item["path"]: self._field(item["fieldRef"]["fieldPath"]).encode() for item in items}
        for kind, key in (("configMap", "name"), ("secret", "name"), ("secret", "secretName")):
            if kind in source and key in source[kind]:
                optional = source[kind].get("optional", False)
                return _chosen(source[kind], await self._data(kind, source[kind][key], optional))
        return {}

    async def _token(self, wanted: Object) -> str:
        account = self._pod["spec"].get("serviceAccountName", "default")
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        bound = {"kind": "Pod", "apiVersion": "v1", "name": self._pod["metadata"]["name"]}
        spec = {
            "expirationSeconds": wanted.get("expirationSeconds", TOKEN_SECONDS),
            "audiences": [wanted["audience"]] if wanted.get("audience") else [],
            "boundObjectRef": {**bound, "uid": self._pod["metadata"]["uid"]},
        }
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = await self._client.create(path, body)
        if answer is None:
            raise MissingError(f"service account {account}")
        token: str = answer["status"]["token"]
        return token

    async def _value(self, source: Object, container: Object) -> str | None:
        if "fieldRef" in source:
            return self._field(source["fieldRef"]["fieldPath"])
        if "resourceFieldRef" in source:
            return _resource(container, source["resourceFieldRef"]["resource"])
        kind = "configMap" if "configMapKeyRef" in source else "secret"
        reference = source[f"{kind}KeyRef"]
        data = await self._data(kind, reference["name"], reference.get("optional", False))
        if reference["key"] not in data:
            if reference.get("optional", False):
                return None
            raise MissingError(f"key {reference['key']} of {kind} {reference['name']}")
        return data[reference["key"]].decode()

    async def _data(self, kind: str, name: str, optional: bool) -> dict[str, bytes]:
        found = await self._client.get(f"/api/v1/namespaces/{self._namespace}/{kind.lower()}s/{name}")
        if found is None:
            if optional:
                return {}
            raise MissingError(f'{kind.lower()} "{name}" not found')
        texts = found.get("data") or {}
        if kind == "secret":
            return {key: base64.b64decode(value) for key, value in texts.items()}
        return {key: value.encode() for key, value in texts.items()}

    def _field(self, path: str) -> str:
        fixed = {
            "metadata.name": self._pod["metadata"]["name"],
            "metadata.namespace": self._namespace,
            "metadata.uid": self._pod["metadata"]["uid"],
            "spec.nodeName": self._pod["spec"]["nodeName"],
            "spec.serviceAccountName": self._pod["spec"].get("serviceAccountName", "default"),
            "status.podIP": self._address,
            "status.podIPs": self._address,
        }
        if path in fixed:
            return fixed[path]
        labels = re.fullmatch(r"metadata\.(labels|annotations)\['(.*)'\]", path)
        if labels is None:
            raise ValueError(f"fieldPath {path!r}: these nodes know {', '.join(fixed)} and single labels")
        return (self._pod["metadata"].get(labels[1]) or {}).get(labels[2], "")


def expand(text: str, variables: dict[str, str]) -> str:
    """Replace `$(NAME)` by the variable's value, as in a container's command and environment."""
    return re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", lambda found: variables.get(found[1], found[0]), text)


def _chosen(source: Object, data: dict[str, bytes]) -> dict[str, bytes]:
    items = source.get("items")
    return {item["path"]: data[item["key"]] for item in items} if items else data


def _resource(container: Object, name: str) -> str:
    kind, _, resource = name.partition(".")
    quantity = str(((container.get("resources") or {}).get(kind) or {}).get(resource, "1"))
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return str(math.ceil(float(number) * _UNITS.get(unit, 1)))
