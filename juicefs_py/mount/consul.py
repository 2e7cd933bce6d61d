"""Telling a Consul agent where the metrics of a mount are (`--consul`). Not the metrics.

One PUT to the agent's HTTP interface (`/v1/agent/service/register`). Consul then looks every 5 s, and forgets the mount
when it has not answered for 30 s.
"""

from __future__ import annotations

import http.client
import json
import socket

from juicefs_py.cli import log

_TIMEOUT_S = 5.0


def split(address: str) -> tuple[str, int]:
    """Host and port; ValueError if it is not HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f'"{address}" is not HOST:PORT')
    return host, int(port)


def own_address(consul: str) -> str:
    """This machine's address on the way to Consul; where it looks for the metrics. Nothing is sent."""
    host, port = split(consul)
    try:
        family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def register(consul: str, metrics: str, mountpoint: str) -> None:
    """Register the metrics at this address (HOST:PORT). A failure is logged: the mount works without."""
    ip, port = split(metrics)
    if ip in ("0.0.0.0", "::"):
        ip = own_address(consul)
    service = {
        "ID": f"{ip}:{mountpoint}",
        "Name": "juicefs",
        "Port": port,
        "Address": ip,
        "Meta": {"mountPoint": mountpoint, "hostName": socket.gethostname()},
        "Check": {
            "HTTP": f"http://{ip}:{port}/metrics", "Interval": "5s", "Timeout": "5s",
            "DeregisterCriticalServiceAfter": "30s",
        },
    }  # fmt: skip
    try:
        connection = http.client.HTTPConnection(*split(consul), timeout=_TIMEOUT_S)
        connection.request("PUT", "/v1/agent/service/register", json.dumps(service))
        answer = connection.getresponse()
        problem = "" if answer.status == 200 else f"{answer.status} {answer.reason}"
        connection.close()
    except (OSError, http.client.HTTPException) as error:
        problem = str(error)
    if problem:
        log.LOG.error("register at consul %s: %s", consul, problem)
    else:
        log.LOG.info("Prometheus metrics registered at consul %s", consul)
