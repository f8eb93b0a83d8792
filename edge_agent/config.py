"""Settings: frozen dataclasses, filled by flag > environment > file > default. Builds nothing."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from socket import gethostname
from typing import Any, get_args, get_origin, get_type_hints

from edge_agent.config_keys import CHOICES, Sync
from edge_agent.config_keys import SECTIONS as SECTIONS
from edge_agent.config_keys import Config as Config
from edge_agent.errors import ConfigError
from edge_agent.log_batches import device_id_of, is_device_id
from edge_agent.redaction import redactor
from edge_agent.router_signature import is_public_key

SYSTEM_SOCKET = Path("/run/edge-agent/edge-agent.sock")
"""Of the service in deploy/."""
_EXPECTED = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple: "a list of texts",
}


def load_config(
    path: str | os.PathLike[str] | None = None,
    *,
    flags: Mapping[tuple[str, str], Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Settings by flag > environment > file > default.

    :param path: the file; None searches $EDGE_AGENT_CONFIG, $CONFIGURATION_DIRECTORY, the XDG directory and /etc.
    :param flags: {(section, key): value} from the command line; None values are ignored.
    :raises ConfigError: naming the file or variable, the key, what was expected and what was found.
    """
    environ = os.environ if environ is None else environ
    file = find_config(path, environ)
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    if file is not None:
        _merge_file(values, file)
    _merge_environment(values, environ)
    for (section, key), value in (flags or {}).items():
        if value is not None:
            values[section][key] = _checked(section, key, value, f"flag for {section}.{key}")
    config = Config(source=str(file) if file else None)
    for section, given in values.items():
        config = replace(config, **{section: replace(getattr(config, section), **given)})
    _check_together(config)
    return config


def find_config(path: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Path | None:
    """The settings file: the one named, else the first that exists in the usual places, else None."""
    named = path or environ.get("EDGE_AGENT_CONFIG")
    if named:
        if not Path(named).is_file():
            raise ConfigError(
                f"config file {named}: not found; give another with --config or leave it out for the defaults"
            )
        return Path(named)
    places = [
        environ.get("CONFIGURATION_DIRECTORY", "").split(":")[0],
        str(xdg_dir("config", environ)),
        "/etc/edge-agent",
    ]
    return next((p for place in places if place and (p := Path(place) / "config.yaml").is_file()), None)


def xdg_dir(kind: str, environ: Mapping[str, str] | None = None) -> Path:
    """edge-agent's own directory for `kind`: config, state or cache. systemd's directory first, then XDG's."""
    environ = os.environ if environ is None else environ
    systemd = {"config": "CONFIGURATION_DIRECTORY", "state": "STATE_DIRECTORY", "cache": "CACHE_DIRECTORY"}[kind]
    if environ.get(systemd):
        return Path(environ[systemd].split(":")[0])
    base = environ.get(f"XDG_{kind.upper()}_HOME")
    default = {"config": ".config", "state": ".local/state", "cache": ".cache"}[kind]
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / default) / "edge-agent"


def socket_path(config: Config, environ: Mapping[str, str] | None = None) -> Path:
    """Where the daemon listens."""
    environ = os.environ if environ is None else environ
    if config.socket.path:
        return Path(config.socket.path).expanduser()
    for variable in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        if environ.get(variable):
            return Path(environ[variable].split(":")[0]) / "edge-agent.sock"
    return xdg_dir("state", environ) / "edge-agent.sock"


def find_socket(config: Config, environ: Mapping[str, str] | None = None) -> Path:
    """Where a client connects: `socket_path`, or the system service's socket when only that one exists."""
    path = socket_path(config, environ)
    return SYSTEM_SOCKET if config.socket.path is None and not path.exists() and SYSTEM_SOCKET.exists() else path


def cloud_key(config: Config, environ: Mapping[str, str]) -> str | None:
    """The cloud's key, from the variable that cloud.api_key_env names; None when there is none."""
    return (environ.get(config.cloud.api_key_env) or None) if config.cloud.api_key_env else None


def cloud_problem(config: Config, environ: Mapping[str, str]) -> str | None:
    """Why the settings allow no cloud call, as a word of policy.REASONS; None when they allow it."""
    cloud = config.cloud
    if not cloud.enabled:
        return "cloud_disabled"
    if cloud.base_url is None or cloud.model is None:
        return "cloud_not_configured"
    return "cloud_no_key" if cloud.api_key_env and not cloud_key(config, environ) else None


def log_path(config: Config, environ: Mapping[str, str] | None = None) -> Path:
    """The decision log's SQLite file."""
    return Path(config.log.path).expanduser() if config.log.path else xdg_dir("state", environ) / "edge-agent.db"


def device_id(config: Config) -> str:
    """What this device is called where its rows go."""
    return config.sync.device_id or device_id_of(gethostname())


def variable_of(section: str, key: str) -> str:
    """The environment variable that sets a key."""
    return f"EDGE_AGENT_{section}_{key}".upper()


def _merge_file(values: dict[str, dict[str, Any]], file: Path) -> None:
    import yaml

    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date or number that is none, endless nesting
        raise ConfigError(
            f"{file}: not YAML: {' '.join(str(error).split())}; mend the line or start from config.yaml"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if loaded is None:
        return
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: expected sections such as `cloud:`, found {_named(loaded)}")
    for section, keys in loaded.items():
        if section not in SECTIONS:
            raise ConfigError(f"{file}: unknown section {section!r}{_nearest(section, SECTIONS)}")
        if keys is None:
            continue
        if not isinstance(keys, dict):
            raise ConfigError(f"{file}: section {section}: expected `key: value` lines, found {_named(keys)}")
        for key, value in keys.items():
            name = _known(section, key, str(file))
            values[section][name] = _checked(section, name, value, str(file))


def _merge_environment(values: dict[str, dict[str, Any]], environ: Mapping[str, str]) -> None:
    settable = {variable_of(section, f.name): (section, f.name) for section in SECTIONS for f in _fields(section)}
    secrets = {"EDGE_AGENT_CONFIG", "EDGE_AGENT_TOKEN", "EDGE_AGENT_CLOUD_API_KEY", "EDGE_AGENT_SYNC_TOKEN"}
    for name, text in environ.items():
        if name in settable:
            section, key = settable[name]
            values[section][key] = _checked(section, key, _from_text(section, key, text), f"variable {name}")
        elif name.startswith("EDGE_AGENT_") and name not in secrets:
            section = name.removeprefix("EDGE_AGENT_").split("_")[0].lower()
            if section in SECTIONS:
                raise ConfigError(f"variable {name}: no such setting{_nearest(name, list(settable))}")


def _from_text(section: str, key: str, text: str) -> Any:
    """A variable's text as a value of the key's type; what does not parse stays text and fails the check."""
    kind = _kind(section, key)
    if text == "" or text.lower() == "null":
        return None if _optional(section, key) else text
    if kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower(), text)
    if kind is tuple:
        return text.split()
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def _checked(section: str, key: str, value: Any, where: str) -> Any:
    kind, name = _kind(section, key), f"{section}.{key}"
    if value is None and _optional(section, key):
        return None
    if kind is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        null = " or null" if _optional(section, key) else ""
        expected = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "text",
            tuple: "a list of texts",
        }[kind]
        raise ConfigError(f"{where}: {name}: expected {expected}{null}, found {_named(value)}")
    limits = next(f.metadata for f in _fields(section) if f.name == key)
    low, high = limits["minimum"], limits["maximum"]
    if isinstance(value, int | float) and kind is not bool and not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{where}: {name}: expected a value from {low:g} to {high:g}, found {value}")
    if isinstance(value, str):
        _check_text(value, f"{where}: {name}", is_path=key in ("path", "model", "ca_file", "shadow"))
    choices = CHOICES.get((section, key))
    if choices and value not in choices:
        raise ConfigError(
            f"{where}: {name}: expected {' or '.join(choices)}, found {value!r}{_nearest(value, choices)}"
        )
    return value


def _check_text(value: str, what: str, *, is_path: bool) -> None:
    if not value.isprintable():
        raise ConfigError(f"{what}: expected text without control characters, found {value!r}")
    if is_path and value.startswith("~"):
        try:
            Path(value).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"{what}: expected the home of a user there is, found {value!r}") from error


def _check_together(config: Config) -> None:
    where, cloud = config.source or "settings", config.cloud
    if cloud.base_url is not None:
        if not cloud.base_url.startswith(("http://", "https://")):
            raise ConfigError(f"{where}: cloud.base_url: expected http:// or https://, found {cloud.base_url!r}")
        if cloud.base_url.startswith("http://") and not is_loopback(cloud.base_url.split("/")[2]):
            raise ConfigError(
                f"{where}: cloud.base_url: {cloud.base_url} would send prompts and the key unencrypted; use https://"
            )
        if "@" in cloud.base_url.split("/")[2]:
            raise ConfigError(
                f"{where}: cloud.base_url: expected no user or password in it; the key goes into cloud.api_key_env"
            )
        if not cloud.model:
            raise ConfigError(f"{where}: cloud.model: expected the model to ask for at {cloud.base_url}, found null")
    if config.tcp.port is not None and not is_loopback(config.tcp.host):
        raise ConfigError(
            f"{where}: tcp.host: expected a loopback address such as 127.0.0.1, found {config.tcp.host!r}"
        )
    if config.router.public_key is not None and not is_public_key(config.router.public_key):
        expected = "expected what `edge-agent router keygen` prints, 32 bytes in base64"
        raise ConfigError(f"{where}: router.public_key: {expected}, found {config.router.public_key!r}")
    _check_sync(config.sync, where)


def _check_sync(sync: Sync, where: str) -> None:
    if sync.device_id is not None and not is_device_id(sync.device_id):
        expected = "expected 1 to 64 of a-z 0-9 . _ -, a letter or digit first"
        raise ConfigError(f"{where}: sync.device_id: {expected}, found {sync.device_id!r}")
    if sync.destination is not None:
        check_destination(sync.destination, f"{where}: sync.destination", allow_http=sync.allow_http)
    try:
        redactor(sync.redact)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}") from error


def check_destination(url: str, what: str, *, allow_http: bool) -> None:
    """:raises ConfigError: when rows, and the token, cannot or must not travel to `url`."""
    scheme, found, rest = url.partition("://")
    host = rest.partition("/")[0]
    if not found or not scheme or (scheme in ("http", "https") and not host):
        raise ConfigError(f"{what}: expected https://HOST:PORT, file:///DIRECTORY, s3://BUCKET/PATH ..., found {url!r}")
    if scheme in ("http", "https") and "@" in host:
        raise ConfigError(f"{what}: expected no user or password in it; the token goes into sync.token_env")
    if scheme == "http" and not is_loopback(host) and not allow_http:
        raise ConfigError(
            f"{what}: {url} would send the token and the texts unencrypted; use https://, or set sync.allow_http: true"
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, with or without a port, is this machine's loopback."""
    name = host.rsplit("@", 1)[-1]
    name = name[1:].split("]")[0] if name.startswith("[") else name.rsplit(":", 1)[0] if name.count(":") == 1 else name
    return name in ("localhost", "::1") or (name.startswith("127.") and name.replace(".", "").isdigit())


def _known(section: str, key: object, where: str) -> str:
    names = [f.name for f in _fields(section)]
    if not isinstance(key, str) or key not in names:
        raise ConfigError(f"{where}: unknown key {section}.{key}{_nearest(str(key), names, section + '.')}")
    return key


def _fields(section: str) -> tuple[Any, ...]:
    return fields(type(getattr(Config(), section)))


def _hints(section: str) -> dict[str, Any]:
    return get_type_hints(type(getattr(Config(), section)))


def _kind(section: str, key: str) -> type:
    hint = _hints(section)[key]
    if get_origin(hint) is tuple:
        return tuple
    return hint if isinstance(hint, type) else next(t for t in hint.__args__ if t is not type(None))


def _optional(section: str, key: str) -> bool:
    hint = _hints(section)[key]
    return type(None) in get_args(hint)


def _named(value: object) -> str:
    return {dict: "a mapping", list: "a list", type(None): "null"}.get(type(value), repr(value))


def _nearest(name: object, known: Any, prefix: str = "") -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known: {', '.join(known)}" if len(known) < 20 else ""
