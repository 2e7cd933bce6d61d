"""An S3 server for tests: `rclone serve s3` over a local directory (`rclone_server`).

It checks signatures and takes uploads in parts. It answers 200 to a GET of a range, and keeps metadata in memory only.
"""

from __future__ import annotations

from functools import cache

from rclone_server import RcloneServer

from chunkstore.bucket import Access

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"


class S3Server(RcloneServer):
    """A server process; a directory below `root` is a bucket."""

    def __init__(self) -> None:
        super().__init__("s3", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}")

    def new_bucket(self) -> str:
        """The name of a bucket that nobody has used. Whoever wants it to be there creates it over the protocol."""
        return f"bucket-{next(self._numbers)}"

    def address(self, bucket: str) -> str:
        return f"{self.url}/{bucket}"


@cache
def shared_server() -> S3Server:
    """One for the whole run."""
    return S3Server().start()


def access(**changes: object) -> Access:
    """How the test server is reached."""
    return Access(**{"access_key": ACCESS_KEY, "secret_key": SECRET_KEY, **changes})  # type: ignore[arg-type]
