"""A Kubernetes on one Linux machine: a real control plane and KubeRay, and nodes whose pods run as processes."""
