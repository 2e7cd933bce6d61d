"""What deploy/ gives to people to copy: manifests whose names fit together and whose options exist, units that work.

Not here: the image (test_image), nor a cluster.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from mounts import REPOSITORY, Volume
from needs import need, need_fuse, need_root
from test_cli_helper import planned
from test_mount_options import in_namespace

from juicefs_py import COMPATIBLE, OWN_VERSION
from juicefs_py.cli import app
from juicefs_py.mount import helper

KUBERNETES = REPOSITORY / "deploy/kubernetes"
SYSTEMD = REPOSITORY / "deploy/systemd"
IMAGE = f"registry.example.com/mount:ce-v{COMPATIBLE}-py{OWN_VERSION}"
FILES = sorted(KUBERNETES.glob("*.yaml"))


def names(text: str) -> set[str]:
    return set(text.split())


# What the driver (v0.32) reads of its ConfigMap, of a patch in it, of a class or volume, of a Secret; and the chart.
TOP = names("""enableNodeSelector enableNativeSidecar enableSetQuota enableControllerSetQuota
    enableAutoRemoveRequestResources enableAutoAbortStuckMountPod enableLazyUmountTarget enableKubeletListMountPod
    mountPodPatch""")
PATCH = names("""pvcSelector nodeSelector ceMountImage eeMountImage imagePullPolicy cacheDirs labels annotations
    hostNetwork hostPID dnsConfig dnsPolicy hostnameKey livenessProbe readinessProbe startupProbe lifecycle resources
    resourcePercentages terminationGracePeriodSeconds volumes volumeMounts volumeDevices env initContainers
    mountOptions""")
SELECTOR = names("matchLabels matchExpressions matchName matchStorageClassName")
CACHE = names("type path name sizeLimit medium storage storageClassName accessModes")
ATTRIBUTES = names("""mountOptions subPath capacity pathPattern secretFinalizer juicefs/mount-image
    juicefs/mount-service-account juicefs/mount-labels juicefs/mount-annotations juicefs/mount-delete-delay
    juicefs/clean-cache juicefs/host-path juicefs/mount-cache-pvc juicefs/mount-cache-emptydir
    juicefs/mount-cache-inline-volume juicefs/mount-cpu-limit juicefs/mount-cpu-request juicefs/mount-memory-limit
    juicefs/mount-memory-request""")
SECRET = names("""storage bucket access-key block-size compress trash-days capacity inodes shards secret-key name
    metaurl format-options encrypt_rsa_key envs configs""")
CHART = names("""mountMode defaultMountImage globalConfig kubeletDir jfsMountDir immutable image controller node
    validatingWebhook snapshot storageClasses""")


def documents(name: str = "") -> list[dict[str, Any]]:
    """Objects of one manifest, or of all."""
    return [
        document
        for path in FILES
        if path.name != "helm-values.yaml" and name in ("", path.name)
        for document in yaml.safe_load_all(path.read_text())
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [document for document in documents() if document["kind"] == kind]


def key(document: dict[str, Any]) -> tuple[str, str]:
    return document["metadata"].get("namespace", ""), document["metadata"]["name"]


def patches() -> Iterator[dict[str, Any]]:
    (config,) = of_kind("ConfigMap")
    settings = yaml.safe_load(config["data"]["config.yaml"])
    assert settings.keys() <= TOP
    yield from settings["mountPodPatch"]
    yield from yaml.safe_load((KUBERNETES / "helm-values.yaml").read_text())["globalConfig"]["mountPodPatch"]


def lists_of_options() -> Iterator[list[str]]:
    """Every list of mount options in any manifest."""
    yield from (patch["mountOptions"] for patch in patches() if "mountOptions" in patch)
    yield from (made["mountOptions"] for made in of_kind("StorageClass") if "mountOptions" in made)
    yield from (made["spec"]["mountOptions"] for made in of_kind("PersistentVolume") if "mountOptions" in made["spec"])


def test_every_object_is_one() -> None:
    objects = [(document["kind"], *key(document)) for document in documents()]
    assert len(objects) == len(set(objects))
    assert {kind for kind, *_ in objects} == {
        "Secret", "StorageClass", "PersistentVolume", "PersistentVolumeClaim", "Pod", "ConfigMap", "Namespace",
    }  # fmt: skip
    assert all(document["apiVersion"] in ("v1", "storage.k8s.io/v1") for document in documents())
    assert all(re.fullmatch("[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) for _, _, name in objects)


def test_names_refer_to_what_there_is() -> None:
    secrets = {key(document) for document in of_kind("Secret")}
    classes = {name for _, name in map(key, of_kind("StorageClass"))}
    for made in of_kind("StorageClass"):
        given = made["parameters"]
        for use in ("provisioner", "node-publish", "controller-expand"):
            prefix = f"csi.storage.k8s.io/{use}-secret"
            assert (given.pop(f"{prefix}-namespace"), given.pop(f"{prefix}-name")) in secrets
        assert given.keys() <= ATTRIBUTES
        assert made["provisioner"] == "csi.juicefs.com"
    for made in of_kind("PersistentVolume"):
        source = made["spec"]["csi"]
        reference = source["nodePublishSecretRef"]
        assert (reference["namespace"], reference["name"]) in secrets
        assert source["driver"] == "csi.juicefs.com" and source["volumeAttributes"].keys() <= ATTRIBUTES
    volumes = {tuple(made["metadata"]["labels"].items()): made["spec"] for made in of_kind("PersistentVolume")}
    for made in of_kind("PersistentVolumeClaim"):
        spec = made["spec"]
        if "selector" in spec:
            bound = volumes[tuple(spec["selector"]["matchLabels"].items())]
            assert spec["storageClassName"] == bound["storageClassName"] == ""
            assert spec["accessModes"] == bound["accessModes"]
        else:
            assert spec["storageClassName"] in classes
    namespaces = {"default", "kube-system", *(name for _, name in map(key, of_kind("Namespace")))}
    assert {namespace for namespace, _ in map(key, documents())} - {""} <= namespaces


def test_pods_mount_what_they_name() -> None:
    claims = {key(document) for document in of_kind("PersistentVolumeClaim")}
    for pod in of_kind("Pod"):
        spec = pod["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
            # Otherwise it never sees the mount that is made after a crash.
            assert all(mount["mountPropagation"] == "HostToContainer" for mount in container["volumeMounts"])
            for command in commands(container):
                assert command[0] == "sh"
                subprocess.run(["bash", "-n", "-c", command[-1]], check=True)
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert (key(pod)[0], volume["persistentVolumeClaim"]["claimName"]) in claims


def commands(container: dict[str, Any]) -> Iterator[list[str]]:
    yield container["command"]
    for probe in ("readinessProbe", "livenessProbe"):
        if probe in container:
            yield container[probe]["exec"]["command"]
    if "lifecycle" in container:
        yield container["lifecycle"]["preStop"]["exec"]["command"]


def test_the_configuration_has_fields_that_the_driver_reads() -> None:
    seen = 0
    for patch in patches():
        assert patch.keys() <= PATCH
        assert patch.get("pvcSelector", {}).keys() <= SELECTOR
        for cache in patch.get("cacheDirs", ()):
            assert cache.keys() <= CACHE and cache["type"] in ("HostPath", "PVC", "EmptyDir", "Ephemeral")
        if "ceMountImage" in patch:
            assert patch["ceMountImage"] == IMAGE
        seen += 1
    assert seen >= 6
    values = yaml.safe_load((KUBERNETES / "helm-values.yaml").read_text())
    assert values.keys() <= CHART and values["defaultMountImage"] == {"ce": IMAGE}
    (config,) = of_kind("ConfigMap")
    assert key(config) == ("kube-system", "juicefs-csi-driver-config")


def test_mount_options_are_ours() -> None:
    """None is left for the kernel, which would refuse the mount; each has a value that can be read."""
    every = list(lists_of_options())
    assert len(every) >= 6
    for options in every:
        assert all(option.count("=") <= 1 for option in options), "the driver takes no more"
        assert "-o" not in helper.rewrite(["mount.juicefs", "URL", "/mnt", "-o", ",".join(options)]), options
        planned(*options)


def test_keys_of_the_secret() -> None:
    (secret,) = of_kind("Secret")
    given = secret["stringData"]
    assert {"metaurl", "name"} <= given.keys() <= SECRET
    known = {name for option in app.load("format").options for name in option.names}
    assert {item.partition("=")[0] for item in given["format-options"].split(",")} <= known
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", given["name"])
    assert yaml.safe_load(given["envs"]) == {"TZ": "UTC"}


def test_every_mention_of_the_image_is_of_this_version() -> None:
    pages = [*FILES, REPOSITORY / "deploy/image/Dockerfile", REPOSITORY / "docs/kubernetes.md"]
    for path in pages:
        tags = set(re.findall(r"mount:(ce-v[^\s\"'`,;)]+)", path.read_text()))
        assert tags <= {IMAGE.rpartition(":")[2]}, path


# -- requirements


def test_the_packages_of_the_image_are_those_of_the_project() -> None:
    """Whoever adds one makes the list again, by the command in its head."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    head, *_ = (REPOSITORY / "deploy/image/requirements.txt").read_text().split("\n\n")
    extras = re.findall(r"--extra (\S+)", head.split("==")[0])
    assert set(extras) == project["optional-dependencies"].keys() - {"test", "bench", "pyfuse3"}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (REPOSITORY / "deploy/image/requirements.txt").read_text(), re.M))
    wanted = [*project["dependencies"], *(each for extra in extras for each in project["optional-dependencies"][extra])]
    assert {re.split(r"[\[<>=~ ]", each)[0].lower().replace("_", "-") for each in wanted} <= locked


# -- systemd and fstab


def unit(path: Path, **values: str) -> dict[str, str]:
    """Settings of a unit file, with variables put in as systemd does."""
    found = dict(re.findall(r"^(\w+)=(.*)$", path.read_text(), re.M))
    for name, value in values.items():
        found = {key: text.replace(f"${{{name}}}", value).replace(f"${name}", value) for key, text in found.items()}
    return found


def test_units_are_sound(tmp_path: Path) -> None:
    need("systemd-analyze", "systemd-escape")
    program = tmp_path / "juicefs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for path, name in ((SYSTEMD / "mnt-jfs.mount", ""), (SYSTEMD / "juicefs@.service", "juicefs@x.service")):
        copy = tmp_path / (name or path.name)
        copy.write_text(path.read_text().replace("/usr/local/bin/juicefs", str(program)))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    where = unit(SYSTEMD / "mnt-jfs.mount")["Where"]
    escaped = subprocess.check_output(["systemd-escape", "-p", "--suffix=mount", where], text=True)
    assert escaped.strip() == "mnt-jfs.mount"


def options_of(text: str, volume: Volume, scratch: Path) -> str:
    """Options of a line or unit, for a mount of a test."""
    kept = [option for option in text.split(",") if not option.startswith(("log=", "x-systemd"))]
    return ",".join([*kept, f"log={scratch}/log", f"cache-dir={volume.cache}", "metrics=127.0.0.1:0"])


def test_the_mount_unit_and_fstab(scratch: Path) -> None:
    """mount(8) as systemd calls it, and a boot's `mount -a`; findmnt finds no error in the table."""
    need_root()
    need_fuse()
    need("unshare", "mount", "findmnt")
    volume = Volume(scratch / "vol").format()
    point = scratch / "mnt"
    point.mkdir()
    given = unit(SYSTEMD / "mnt-jfs.mount")
    options = options_of(given["Options"], volume, scratch)
    lines = [line for line in (SYSTEMD / "fstab").read_text().splitlines() if line and not line.startswith("#")]
    fields = lines[0].split()
    assert (fields[2], fields[4:]) == (given["Type"], ["0", "0"]) and fields[1] == given["Where"]
    row = f"{volume.url}  {point}  {fields[2]}  {options_of(fields[3], volume, scratch)}  0 0\n"
    (scratch / "fstab").write_text(row)
    done = in_namespace(
        scratch,
        f"""
mount {volume.url} {point} -t {given["Type"]} -o {options}
stat -c %i {point}
umount {point} -c
findmnt -n {point} || echo gone
findmnt --verify --tab-file {scratch}/fstab | grep -c '\\[E\\]' || true
mount -a -T {scratch}/fstab
mount -a -T {scratch}/fstab
findmnt -n -o SOURCE,FSTYPE {point}
umount -t juicefs,fuse.juicefs {point}
""",
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.strip(".")] == [
        "1",
        "gone",
        "0",
        "JuiceFS:testvol fuse.juicefs",
    ]


def test_the_service(scratch: Path) -> None:
    """Its three commands, run one after the other as systemd runs them."""
    need_fuse()
    volume = Volume(scratch / "vol").format()
    point = scratch / "mnt"
    options = f"--log {scratch}/log --cache-dir {volume.cache} --metrics 127.0.0.1:0"
    values = {"META_URL": volume.url, "MOUNT_POINT": str(point), "OPTIONS": options}
    from mounts import PROGRAM, environment, fuse_device
    from test_handover import config_of, served_by, wait_until

    def execute(line: str) -> None:
        words = shlex.split(line.replace("/usr/local/bin/juicefs", " ".join(PROGRAM)))
        subprocess.run(words, env=environment(), check=True, cwd="/", capture_output=True, timeout=60)

    given = unit(SYSTEMD / "juicefs@.service", **values)
    assert given["Type"] == "forking"
    execute(given["ExecStart"])
    config = config_of(point)
    try:
        execute(given["ExecReload"].replace("$MAINPID", str(config["PPid"])))
        wait_until(lambda: served_by(point) not in (None, config["Pid"]), "another process serves")
        assert config_of(point)["PPid"] == config["PPid"]
    finally:
        execute(given["ExecStop"])
    assert fuse_device(point) is None
    wait_until(lambda: not os.path.exists(f"/proc/{config['PPid']}"), "the supervisor ends")
