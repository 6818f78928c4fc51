"""Which stage owns which GPU: allocation, drain timing and the reservation policy."""
