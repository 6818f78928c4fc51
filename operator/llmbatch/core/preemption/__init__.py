"""Preemption: which signs on nodes and pods mean that a worker goes, and what follows from them."""
