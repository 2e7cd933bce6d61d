"""The errors of boto3 and botocore as those of this room. Not what codes and statuses mean: `remote` has the tables."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from chunkstore.buckets.remote import refused
from chunkstore.errors import BadBucket, Denied, StoreError, Timeout, Unavailable


def translated(error: Exception, what: str, endpoint: str) -> StoreError:
    """`what` names the action and its object, `endpoint` who was asked."""
    from botocore import exceptions

    if isinstance(error, exceptions.HTTPClientError):
        ours = error.kwargs.get("error")  # what we raised while the library sent our bytes
        if isinstance(ours, StoreError):
            return ours
    if isinstance(error, exceptions.ClientError):
        told = error.response.get("Error", {})
        status, code, message = status_of(error), code_of(error), str(told.get("Message", ""))
        if (target := _redirects_to(error)) and code in ("", str(status)):
            code, message = "", f"it redirects to {target}; name that place in the bucket's address"
        return refused(status, code, message, what)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return Denied(
            f"{what}: no access key was given, and none was found on this machine; "
            "give --access-key and --secret-key, or `anonymous` for a public bucket"
        )
    if isinstance(error, exceptions.ParamValidationError | exceptions.InvalidRegionError):
        return BadBucket(f"{what}: {one_line(error)}")
    if isinstance(error, exceptions.ConnectTimeoutError | exceptions.ReadTimeoutError):
        return Timeout(f"{what}: {endpoint} did not answer in time")
    return Unavailable(f"{what}: {one_line(error)}")


def status_of(error: Exception) -> int:
    """The status of the answer; 0 if there was none."""
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: Exception) -> str:
    """The service's code; empty if there was no answer."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _redirects_to(error: Exception) -> str:
    """The host that a redirecting answer names, if it is one."""
    location = _answer(error).get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("location", "")
    return urlsplit(location).netloc.rpartition("@")[2] if 300 <= status_of(error) < 400 else ""


def _answer(error: Exception) -> dict[str, Any]:
    return getattr(error, "response", None) or {}
