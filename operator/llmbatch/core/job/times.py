"""Unix seconds to RFC 3339 and back, whole seconds, UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """Return `2026-01-31T12:00:00Z` for Unix seconds, fractions cut off."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix(timestamp: str | None) -> float | None:
    """Return the Unix seconds of an RFC 3339 time; None stays None."""
    return None if timestamp is None else datetime.fromisoformat(timestamp).timestamp()


def since(now: float, timestamp: str | None) -> float:
    """Return the seconds from a time until now, never negative; 0 for None."""
    start = unix(timestamp)
    return 0.0 if start is None else max(0.0, now - start)
