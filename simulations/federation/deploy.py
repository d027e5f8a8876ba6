"""`fedperfit deploy`: writes everything a real federation of Flower SuperNodes needs, one folder per machine."""

import contextlib
import datetime
import importlib.metadata
import ipaddress
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import tomli_w
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from configs.errors import InputError
from configs.files import keep_out_of_git
from configs.load import dump_resolved
from configs.paths import expand, make_cache
from configs.schema import RunConfig
from fl_clients.backbone.load import read_shape
from fl_clients.lamp.select_users import build_table
from fl_clients.lamp.user_table import OpenedUser, open_user, write_one_user
from simulations.run.preflight import build_method, check_promise, resolve

DAYS = 365
"""Days for which the certificates are valid."""
_LAST_PORT = 65535
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_TEMPLATES = Path(__file__).parent / "scripts"


def deploy(config: RunConfig, folder: Path, host: str, port: int, bind: str | None = None) -> Path:
    """Write a folder for the server and one for each user's device.

    Args:
        config: The run's config.
        folder: The folder to write; new or empty.
        host: Name or address at which devices reach the server; the certificate is issued for it.
        port: The server's port.
        bind: Address of the server's machine on which it listens; by default `host`. Behind a router they differ.

    Raises:
        InputError: The config, host or port is invalid, or the folder is not empty or cannot be created.
    """
    if not _HOST.fullmatch(host):
        raise InputError("expected a name or an IPv4 address", field="host", value=host)
    total_users = config.users.collective + config.users.target
    if bind is not None and not _HOST.fullmatch(bind):
        raise InputError("expected a name or an IPv4 address", field="bind", value=bind)
    if port + total_users > _LAST_PORT:
        raise InputError(
            f"nodes use the {total_users} ports after it, and {_LAST_PORT} is the last", field="port", value=port
        )
    if config.devices.classes:
        raise InputError("devices: a real federation has no simulated devices")
    if config.start_from:
        raise InputError("start_from: a real federation trains its own collective part")
    folder = expand(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty folder")
    method = build_method(config, read_shape(config.backbone))
    if config.privacy.kind != "none" and method.first_round is not None:
        check_promise(config, method, devices=True)
    if any(letter in str(folder) for letter in '"\\$`\n'):
        raise InputError(f"{folder}: the scripts cannot quote this path; choose one without quotes, \\ and $")
    with _selected_users(config := resolve(config)) as users:
        _write_folders(config, folder, users, host, port, bind or host)
    return folder


@contextlib.contextmanager
def _selected_users(config: RunConfig) -> Iterator[Path]:
    """Build the users' table; everybody's texts stay in the operator's cache only if an earlier run put them there."""
    cached = set(make_cache("users").iterdir())
    users = build_table(config).folder
    try:
        yield users
    finally:
        if users not in cached:
            shutil.rmtree(users)


def _write_folders(config: RunConfig, folder: Path, users: Path, host: str, port: int, bind: str) -> None:
    server = folder / "server"
    try:
        (server / "keys").mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be created: {error.strerror}") from None
    keep_out_of_git(folder)
    write_certificates(server, host)
    _write_app(server, config)
    _write_script(server, "start.sh", bind=bind, port=port)
    _write_script(server, "run.sh", address=f"{host}:{port}")
    _write_containers(server, bind, port)
    for partition in range(config.users.collective + config.users.target):
        _write_node(folder, partition, open_user(users, partition), config.task, host, port)


def _write_node(folder: Path, partition: int, user: OpenedUser, task: str, host: str, port: int) -> None:
    node, server = folder / "nodes" / str(partition), folder / "server"
    node.mkdir(parents=True)
    node.chmod(0o700)
    write_one_user(user, partition, task, node / "user")
    shutil.copyfile(server / "ca.crt", node / "ca.crt")
    public = write_key(node / "node.key")
    (server / "keys" / f"{partition}.pub").write_bytes(public)
    # For the SuperNode's own processes; SuperNodes on one machine need different ports.
    _write_script(node, "node.sh", address=f"{host}:{port}", partition=partition, port=port + 1 + partition)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _write_app(server: Path, config: RunConfig) -> None:
    """Write the Flower app, which only names code that every machine has installed, and the run's config."""
    # The server must not learn which users were selected or where their data come from.
    anonymous = {"source": "devices", "select": "random", "collective_ids": [], "target_ids": []}
    config = config.model_copy(update={"users": config.users.model_copy(update=anonymous)})
    run_config = {"config": dump_resolved(config), "results": "results", "run-dir": "", "keys": "keys"}
    components = {
        "serverapp": "fedperfit.flower_apps.federation_server:app",
        "clientapp": "fedperfit.flower_apps.device_client:app",
    }
    project = {"name": "fedperfit", "version": "1.0.0", "description": "fedperfit run", "license": "Apache-2.0"}
    flower = {"publisher": "fedperfit", "components": components, "config": run_config}
    (server / "app").mkdir()
    (server / "app" / "pyproject.toml").write_text(
        tomli_w.dumps({"project": project, "tool": {"flwr": {"app": flower}}})
    )


def _write_containers(server: Path, bind: str, port: int) -> None:
    """Write what keeps operators' paths from everybody else: a proxy for devices, and both in containers."""
    (server / "proxy-temp").mkdir()
    places = {"port": port, "inner": port - 1 or 2}
    _write_file(server / "proxy.conf", "proxy.conf", bind=bind, **places)
    _write_file(server / "container-proxy.conf", "proxy.conf", bind="0.0.0.0", **places)  # noqa: S104: the container's
    # The keys are this user's only.
    _write_file(server / "compose.yaml", "compose.yaml", user=f"{os.getuid()}:{os.getgid()}", **places)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    _write_file(server / "Dockerfile", "Dockerfile", python=python, version=importlib.metadata.version("fedperfit"))


def _write_script(folder: Path, name: str, **values: object) -> None:
    path = folder / ("start.sh" if name == "node.sh" else name)
    _write_file(path, name, **values)
    path.chmod(0o755)


def _write_file(path: Path, name: str, **values: object) -> None:
    template = (_TEMPLATES / name).read_text(encoding="utf-8")
    text = jinja2.Template(template, undefined=jinja2.StrictUndefined, keep_trailing_newline=True).render(values)
    path.write_text(text, encoding="utf-8")


def write_key(path: Path) -> bytes:
    """Write a SuperNode's private key (P-384, OpenSSH), readable only by its owner; return the public key."""
    key = ec.generate_private_key(ec.SECP384R1())
    form, no_password = serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, no_password))
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def write_certificates(folder: Path, host: str, days: float = DAYS) -> None:
    """Write `ca.crt`, this federation's certificate authority, whose key is not kept, `server.crt` and `server.key`.

    Args:
        folder: The folder to write into.
        host: Name or address that the server's certificate covers, besides `localhost` and 127.0.0.1.
        days: Days for which the certificates are valid.
    """
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedperfit federation")])
    ca = (
        _certificate(authority, authority, ca_key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names: dict[str, x509.GeneralName] = {name: _general_name(name) for name in (host, "localhost", "127.0.0.1")}
    server = (
        _certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])]), authority, key.public_key(), days)
        .add_extension(x509.SubjectAlternativeName(names.values()), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "server.crt").write_bytes(server.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").touch(mode=0o600)
    form, no_password = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, no_password))


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    ends = now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - datetime.timedelta(minutes=5))
        .not_valid_after(ends)
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
