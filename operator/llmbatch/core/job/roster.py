"""Workers that went before a pass counted them: forced deletions, passes far apart, ends within a burst of notices."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from llmbatch.core.job.snapshot import HEAD_GROUP, PodObservation, RayClusterObservation


class Roster(NamedTuple):
    """The workers of one RayCluster from pass to pass. A restart of the operator begins an empty one."""

    cluster_uid: str = ""
    """uid of the RayCluster."""
    there: tuple[PodObservation, ...] = ()
    """Workers on a node that were not told to go before they terminated, as the last pass saw them."""
    vanished: tuple[PodObservation, ...] = ()
    """Workers that went and that the status does not count yet."""


def call_roll(
    before: Roster, cluster: RayClusterObservation | None, pods: Iterable[PodObservation], counted: Collection[str]
) -> Roster:
    """Return the roster after a look at the pods.

    Args:
        before: The roster of the pass before.
        cluster: The RayCluster. One that is suspended or deleted takes its workers along, which is no loss.
        pods: Its pods.
        counted: Workers that the status counts as gone.
    """
    if cluster is None or cluster.deleting or cluster.suspended:
        return Roster()
    workers = tuple(pod for pod in pods if pod.group != HEAD_GROUP)
    # A worker that terminates is named as well when a group is sized: what went before it was named went by itself.
    went = {pod.name for pod in before.there if pod.terminating} if before.cluster_uid == cluster.uid else set()
    told_to_go = {name for group in cluster.groups for name in group.workers_to_delete} - went
    there = tuple(pod for pod in workers if pod.node is not None and pod.name not in told_to_go)
    if before.cluster_uid != cluster.uid:
        return Roster(cluster.uid, there)
    # A pass may see a pod terminate and not write it down: only the status says who is counted.
    unseen = [pod for pod in before.there if pod.name not in told_to_go]
    explained = {pod.name for pod in workers} | set(counted)
    return Roster(cluster.uid, there, tuple(pod for pod in (*before.vanished, *unseen) if pod.name not in explained))


def leave_untold(
    before: Roster, cluster: RayClusterObservation, pods: Iterable[PodObservation], counted: Collection[str]
) -> bool:
    """Tell whether a worker goes of which nothing says why: neither a sign of its own, nor the status, nor an order.

    Args:
        before: The roster of the pass before.
        cluster: The RayCluster.
        pods: Its pods.
        counted: Workers that the status counts as gone.
    """
    if cluster.deleting or cluster.suspended or before.cluster_uid != cluster.uid:
        return False
    stay = {pod.name for pod in pods if not pod.terminating}
    explained = stay.union(counted, *(group.workers_to_delete for group in cluster.groups))
    return any(pod.name not in explained for pod in before.there)
