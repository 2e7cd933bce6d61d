"""Where keys for Alibaba Cloud come from when none are given: the environment, then the role of the machine.

Not every link of the official client's chain: files of profiles and tokens of Kubernetes accounts are not looked for.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from chunkstore.bucket import Access
from chunkstore.errors import Denied

METADATA = "http://100.100.100.200/latest/meta-data/ram/security-credentials/"
"""Answers on machines of that cloud only: the name of their role, and below it, keys that last some hours."""

_VARIABLES = (
    ("ALICLOUD_ACCESS_KEY_ID", "ALICLOUD_ACCESS_KEY_SECRET", "SECURITY_TOKEN"),
    ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"),
)
_ROLE = "ALIBABA_CLOUD_ECS_METADATA"
_TIMEOUT_S = 2.0  # the service is next door, or nowhere


def provider(access: Access) -> Any:
    """Whom `oss2` asks for the keys of each request."""
    from oss2 import StaticCredentialsProvider

    if access.access_key:
        return StaticCredentialsProvider(access.access_key, access.secret_key, access.token)
    for names in _VARIABLES:
        key, secret, token = (os.environ.get(name, "") for name in names)
        if key:
            return StaticCredentialsProvider(key, secret, token)
    return RamRole()


class RamRole:
    """The keys of this machine's role, fetched when first needed and again before they expire. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: Any = None

    def get_credentials(self) -> Any:
        """Current keys; `Denied` if this machine has no role, or is not in that cloud."""
        from oss2.exceptions import ClientError
        from requests import RequestException

        try:
            with self._lock:
                if self._keys is None:
                    self._keys = self._new_keys()
            return self._keys.get_credentials()
        except (ClientError, RequestException):
            raise Denied(
                "no access key was given, and this machine has no RAM role that would grant one; "
                "give --access-key and --secret-key, or set ALICLOUD_ACCESS_KEY_ID and ALICLOUD_ACCESS_KEY_SECRET"
            ) from None

    def _new_keys(self) -> Any:
        import requests
        from oss2 import EcsRamRoleCredentialsProvider

        role = os.environ.get(_ROLE, "")
        if not role:
            with requests.get(METADATA, timeout=_TIMEOUT_S) as answer:
                answer.raise_for_status()
                role = answer.text.strip()
        return EcsRamRoleCredentialsProvider(METADATA + role, max_retries=1, timeout=_TIMEOUT_S)
