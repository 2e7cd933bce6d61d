"""The metrics of a mount: their names, types and labels as official dashboards expect them, and the endpoint."""

from __future__ import annotations

import http.server
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from vfs_harness import BLOCK, Client, World, world

from juicefs_py.cli.args import Values, parse
from juicefs_py.cli.errors import Fatal
from juicefs_py.cli.options import GLOBAL
from juicefs_py.commands.mount import COMMAND
from juicefs_py.control.meta_stats import CALLS
from juicefs_py.metrics import Histogram
from juicefs_py.mount import consul, settings
from meta.config import MetaConfig
from meta.errors import Conflict, Refused
from meta.rules.limits import set_limit
from meta.setting import Setting

OFFICIAL = {
    "counter": """
        meta_ops_total meta_ops_duration_seconds transaction_restart fuse_ops_total fuse_ops_durations_seconds
        fuse_ops_io_errors blockcache_hits blockcache_miss blockcache_hit_bytes blockcache_miss_bytes blockcache_writes
        blockcache_write_bytes blockcache_drops blockcache_evicts staging_write_bytes staging_block_delay_seconds
        staging_block_errors object_request_errors object_request_data_bytes juicefs_bgjob_deletions_total
        process_cpu_seconds_total
    """,
    "gauge": """
        cpu_usage memory uptime used_space used_inodes total_space total_inodes subdir_info
        dir_quota_max_space_bytes dir_quota_max_inodes dir_quota_used_space_bytes dir_quota_used_inodes
        user_quota_max_space_bytes user_quota_max_inodes user_quota_used_space_bytes user_quota_used_inodes
        group_quota_max_space_bytes group_quota_max_inodes group_quota_used_space_bytes group_quota_used_inodes
        fuse_open_handlers used_buffer_size_bytes store_cache_size_bytes used_read_buffer_size_bytes
        blockcache_blocks blockcache_bytes staging_blocks staging_block_bytes staging_writing_blocks
        object_request_uploading process_resident_memory_bytes process_virtual_memory_bytes process_open_fds
        process_max_fds process_start_time_seconds
    """,
    "histogram": """
        transaction_durations_histogram_seconds meta_ops_durations_histogram_seconds fuse_read_size_bytes
        fuse_written_size_bytes fuse_ops_durations_histogram_seconds compact_size_histogram_bytes
        blockcache_read_hist_seconds blockcache_write_hist_seconds object_request_durations_histogram_seconds
        juicefs_bgjob_duration_seconds
    """,
}
"""What 1.4.1 exposes under the prefix `juicefs_`; without `go_*`, and what only a mount with backups has."""

ODD = {"cpu_usage": "counter"}
LABELS = {
    "meta_ops_total": {"method"}, "transaction_restart": {"method"}, "fuse_ops_total": {"method"},
    "fuse_ops_io_errors": {"errno"}, "object_request_data_bytes": {"method", "storage_class"},
    "object_request_durations_histogram_seconds": {"method", "storage_class"}, "subdir_info": {"subdir"},
    "dir_quota_max_inodes": {"inode"}, "user_quota_max_inodes": {"uid"}, "group_quota_max_inodes": {"gid"},
    "juicefs_bgjob_duration_seconds": {"job", "status"}, "juicefs_bgjob_deletions_total": {"job"},
}  # fmt: skip


@pytest.fixture
def busy() -> Iterator[Client]:
    """A client that has done a bit of everything that is measured."""
    with world("mem", user_group_quota=True, dir_stats=True) as made:
        yield work(made)


def work(made: World) -> Client:
    client = made.client(meta=MetaConfig(skip_dir_mtime_s=0.0), cache_dirs=("memory",), cache_size=1 << 20)
    file = client.create(b"f")
    file.write(0, b"x" * BLOCK)
    file.flush()
    assert file.all()
    file.release()
    with pytest.raises(Refused):
        client.lookup(b"missing")
    client.vfs.meta.job_done("cleanupSlices", "succ", 1.5, 3)
    return client


def families(client: Client) -> dict[str, Any]:
    """By name without the prefix; the parser takes `_total` off the names of counters."""
    text = client.vfs.metrics.render().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name.removeprefix("juicefs_")
        if f"# TYPE juicefs_{name}_total counter" in text:
            name += "_total"
        found[name] = family
    return found


def test_all_official_metrics_are_there(busy: Client) -> None:
    found = families(busy)
    for kind, names in OFFICIAL.items():
        for name in names.split():
            assert name in found, name
            assert found[name].type in (kind, ODD.get(name)), name


def test_labels(busy: Client) -> None:
    set_limit(busy.vfs.meta.vol, "dir", busy.mkdir(b"d"), 1 << 30, 100)
    set_limit(busy.vfs.meta.vol, "user", 7, 1 << 30, 100)
    set_limit(busy.vfs.meta.vol, "group", 8, 1 << 30, 100)
    found = families(busy)
    for name, labels in LABELS.items():
        samples = found[name].samples
        if name == "transaction_restart" and not samples:
            continue  # nothing ran twice
        assert samples, name
        assert {label for sample in samples for label in sample.labels} - {"le"} == labels, name


def test_metadata_calls_are_counted(busy: Client) -> None:
    def count(method: str) -> float:
        return next(
            (each.value for each in families(busy)["meta_ops_total"].samples if each.labels["method"] == method), 0
        )

    before = count("Mknod") + count("Create"), count("Unlink")
    busy.create(b"another").release()
    busy.unlink(b"another")
    assert (count("Mknod") + count("Create"), count("Unlink")) == (before[0] + 1, before[1] + 1)
    assert families(busy)["transaction_durations_histogram_seconds"].samples[-1].value >= 2


def test_a_transaction_that_runs_again_is_counted(busy: Client) -> None:
    tried = []

    def body(tx: Any) -> None:
        tried.append(tx)
        if len(tried) < 3:
            raise Conflict("once more")

    busy.vfs.meta.engine.transact(body)
    restarts = families(busy)["transaction_restart"].samples
    assert len(tried) == 3 and sum(sample.value for sample in restarts) == 2


def test_every_call_that_is_measured_exists(busy: Client) -> None:
    assert all(callable(getattr(type(busy.vfs.meta), name)) for name in CALLS)


def test_a_scrape_is_cheap(busy: Client) -> None:
    """Printed, and far from what would disturb: the machines that tests run on are slow at times."""
    begun = time.perf_counter()
    for _ in range(20):
        busy.vfs.metrics.render()
    print(f"a scrape takes {(time.perf_counter() - begun) / 20 * 1000:.1f} ms")


def test_no_observation_is_lost_between_threads() -> None:
    histogram = Histogram((1.0,))
    threads = [threading.Thread(target=lambda: [histogram.observe(0.5) for _ in range(20_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert histogram.distribution().counts == (80_000, 0)


# Labels and options


def values(*words: str) -> Values:
    made = Values((*GLOBAL, *COMMAND.options))
    parse([*words, "meta", "/mnt"], made)
    return made


def test_constant_labels() -> None:
    found = settings.labels(values("--custom-labels", "team:a;zone:b"), "/mnt", Setting(name="vol"))
    assert {"vol_name", "mp", "juicefs_version", "instance", "team", "zone"} == found.keys()
    assert (found["vol_name"], found["mp"], found["team"]) == ("vol", "/mnt", "a")


def test_a_bad_consul_address_is_refused() -> None:
    with pytest.raises(Fatal, match="invalid --consul address"):
        settings.metrics_address(values("--consul", "nowhere"))


# Consul


def test_the_mount_is_registered_at_consul() -> None:
    taken: list[tuple[str, dict[str, Any]]] = []

    class Agent(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Agent) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        consul.register(f"127.0.0.1:{server.server_port}", "0.0.0.0:9567", "/mnt/jfs")
        thread.join(10)
    ((path, service),) = taken
    assert path == "/v1/agent/service/register"
    assert service["ID"] == "127.0.0.1:/mnt/jfs" and service["Name"] == "juicefs" and service["Port"] == 9567
    assert service["Meta"]["mountPoint"] == "/mnt/jfs" and service["Meta"]["hostName"]
    assert service["Check"]["HTTP"] == "http://127.0.0.1:9567/metrics"


def test_without_consul_the_mount_works(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        consul.register("127.0.0.1:1", "127.0.0.1:9567", "/mnt/jfs")
    assert re.search(r"register at consul 127.0.0.1:1: .*refused", caplog.text)
