"""Capacity: how many nodes to ask for, and traces of how many there were."""
