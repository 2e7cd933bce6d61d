"""Passwords out of sight: in logs and in the process list. Text based on purpose, so that nothing else of a URL changes."""

from __future__ import annotations


def mask(url: str) -> str:
    """Replace everything from the first `:` behind the scheme to the last `@` by `:****`."""
    at = url.rfind("@")
    scheme = url.find("://")
    start = scheme + 3 if scheme >= 0 else 0
    colon = url.find(":", start, at) if at >= 0 else -1
    return url if colon < 0 else f"{url[:colon]}:****{url[at:]}"


def with_scheme(url: str) -> str:
    """A metadata address without a scheme means Redis."""
    return url if "://" in url else "redis://" + url
