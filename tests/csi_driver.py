"""A stand-in for the CSI driver's node plugin: who keeps the descriptor of a mount, and the pods that it asks for.

Not here: who runs the pods (`containers`). Command lines, order of options, quoting, environment and volumes are the
driver's (v0.32), so that what they must do can be tried without a cluster.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from juicefs_py.mount import passfd

_QUOTED = frozenset("`$&;>|()")
PRE_STOP = "umount {point} -l; rmdir {point}; exit 0"


class Driver(threading.Thread):
    """Keeps the descriptor of one mount, as the CSI driver does: it gives away what it has, and takes it back."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.fd: int | None = None
        self.setting = b"FUSE"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                passfd.send(connection, self.setting, [0] if self.fd is None else [0, self.fd])
                if self.fd is not None:
                    os.close(self.fd)
                    self.fd = None
                setting, fds = passfd.receive(connection, 1)
                if setting != b"CLOSE" and len(fds) == 1 and self.fd is None:
                    self.fd, self.setting = fds[0], setting
                else:
                    for fd in fds:
                        os.close(fd)

    def close_theirs(self, supervisor: int, directory: str = "/tmp") -> None:
        """Take the supervisor's copy away, so that it ends with its child."""
        offer = passfd.take(f"{directory}/fuse_fd_comm.{supervisor}")
        assert offer is not None and offer.fd is not None
        os.close(offer.fd)

    def end(self) -> None:
        """Nobody is answered any more, and the descriptor is let go."""
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept, as closing does not
        self.join(10)
        self.listener.close()
        if self.fd is not None:
            os.close(self.fd)


def escaped(value: str) -> str:
    """As the driver puts a value into a command line: whole in $'...', if it has characters of a few kinds."""
    if not _QUOTED & set(value):
        return value
    return "$'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@dataclass
class VolumeSecret:
    """What the Secret of a volume says."""

    metaurl: str
    name: str = "myjfs"
    storage: str = ""
    bucket: str = ""
    access_key: str = ""
    secret_key: str = ""
    format_options: tuple[str, ...] = ()
    more: dict[str, str] = field(default_factory=dict)  # plain keys of the command, without the dashes

    def format_command(self) -> str:
        """Options stand on both sides of the address; the secret key is a variable of the shell."""
        words = ["/usr/local/bin/juicefs", "format"]
        if not (self.storage and self.bucket):
            words.append("--no-update")
        given = {"storage": self.storage, "bucket": self.bucket, "access-key": self.access_key, **self.more}
        words += [f"--{name}={escaped(value)}" for name, value in given.items() if value]
        if self.secret_key:
            words.append("--secret-key=${secretkey}")
        words += ["${metaurl}", self.name, *(f"--{option}" for option in self.format_options)]
        return " ".join(words)

    def variables(self) -> dict[str, str]:
        """What of it reaches the pod as environment, from the pod's own Secret."""
        return {"metaurl": self.metaurl} | ({"secretkey": self.secret_key} if self.secret_key else {})


def mount_command(point: str, options: tuple[str, ...]) -> str:
    """The last line of a mount pod, and the mount of a job."""
    shown = escaped(",".join(options))
    return f"/bin/mount.juicefs ${{metaurl}} {point} -o {shown}".replace("(", "\\(").replace(")", "\\)")


def mount_pod(
    name: str, image: str, secret: VolumeSecret, secret_name: str, volume_id: str, point: str, options: tuple[str, ...],
    folders: dict[str, str], more_environment: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """The pod that the driver would create; `folders` are places on the host by the name of the pod's volume."""
    environment = [
        {"name": "JFS_INSIDE_CONTAINER", "value": "1"},
        *(
            {"name": key, "valueFrom": {"secretKeyRef": {"name": secret_name, "key": key}}}
            for key in secret.variables()
        ),
        {"name": "JFS_FOREGROUND", "value": "1"},
        *({"name": key, "value": value} for key, value in more_environment.items()),
    ]
    at = {"jfs-dir": "/jfs", "jfs-fuse-fd": "/tmp", "updatedb": "/etc/updatedb.conf", "cachedir-0": "/var/jfsCache"}
    mounts: list[dict[str, str]] = [{"name": volume, "mountPath": at[volume]} for volume in folders]
    for mount in mounts:
        if mount["name"] == "jfs-dir":
            mount["mountPropagation"] = "Bidirectional"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {"app.kubernetes.io/name": "juicefs-mount", "volume-id": volume_id},
            "finalizers": ["juicefs.com/finalizer"],
        },
        "spec": {
            "restartPolicy": "OnFailure",
            "terminationGracePeriodSeconds": 10,
            "priorityClassName": "system-node-critical",
            "hostname": volume_id,
            "hostNetwork": True,  # the servers of the tests listen on the loopback device
            "containers": [
                {
                    "name": "jfs-mount",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": [
                        "sh", "-c", f"{secret.format_command()}\nexec {mount_command(point, options)}"
                    ],
                    "env": environment,
                    "resources": {"limits": {"memory": "5Gi"}, "requests": {"memory": "1Gi"}},
                    "securityContext": {"privileged": True, "runAsUser": 0},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": [
                {
                    "name": volume,
                    "hostPath": {
                        "path": path,
                        "type": "FileOrCreate" if volume == "updatedb" else "DirectoryOrCreate",
                    },
                }
                for volume, path in folders.items()
            ],
        },
    }  # fmt: skip
