"""Settings: flag > environment > file > default, and every mistake named."""

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from edge_agent.config import SECTIONS, Config, is_loopback, load_config, log_path, socket_path, variable_of, xdg_dir
from edge_agent.errors import ConfigError

ROOT = Path(__file__).parent.parent


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_shipped_file_documents_every_key_with_its_default() -> None:
    text = (ROOT / "config.yaml").read_text()
    shipped = yaml.safe_load(text)
    defaults = Config()
    for section in SECTIONS:
        expected = {f.name: getattr(getattr(defaults, section), f.name) for f in fields(getattr(defaults, section))}
        expected = {name: list(value) if isinstance(value, tuple) else value for name, value in expected.items()}
        assert shipped[section] == expected
    for section in SECTIONS:
        for field in fields(getattr(defaults, section)):
            assert field.metadata["comment"] in text.replace("\n  # ", " "), f"{section}.{field.name} lost its comment"


def test_the_shipped_file_loads_as_the_defaults() -> None:
    config = load_config(ROOT / "config.yaml", environ={})
    assert [getattr(config, s) for s in SECTIONS] == [getattr(Config(), s) for s in SECTIONS]


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, "local: {n_ctx: 1000, n_batch: 100, n_threads: 1}")
    environ = {"EDGE_AGENT_LOCAL_N_CTX": "2000", "EDGE_AGENT_LOCAL_N_BATCH": "200"}
    local = load_config(file, flags={("local", "n_ctx"): 3000, ("local", "model"): None}, environ=environ).local
    assert (local.n_ctx, local.n_batch, local.n_threads, local.top_k) == (3000, 200, 1, 20)


@pytest.mark.parametrize("section, key", [(s, f.name) for s in SECTIONS for f in fields(getattr(Config(), s))])
def test_every_key_can_be_set_by_its_variable(section: str, key: str) -> None:
    values = {
        "base_url": "https://x.example/v1",
        "host": "::1",
        "on_error": "cloud",
        "level": "debug",
        "format": "json",
        "destination": "file:///mnt/usb",
        "redact": "email",
        "public_key": 43 * "a" + "=",
    }
    default = getattr(getattr(Config(), section), key)
    value = values.get(key) or {bool: "false", int: "1024", float: "0.5"}.get(type(default), "1")
    value = (
        "1" if (section, key) in (("router", "n_threads"), ("local", "temperature"), ("cloud", "retries")) else value
    )
    environ = {variable_of(section, key): value, "EDGE_AGENT_CLOUD_MODEL": "m"}
    found = getattr(getattr(load_config(environ=environ), section), key)
    found = " ".join(found) if isinstance(found, tuple) else found
    assert str(found).lower() in (value.lower(), f"{value}.0") or (key == "model" and section == "cloud")


@pytest.mark.parametrize(
    "text, said",
    [
        ("router: {public_key: abc}", "router.public_key: expected what `edge-agent router keygen` prints"),
        ("cloud: {base_ulr: x}", "cloud.base_ulr; did you mean cloud.base_url?"),
        ("clod: {}", "unknown section 'clod'; did you mean cloud?"),
        ("local: {n_ctx: many}", "local.n_ctx: expected a whole number, found 'many'"),
        ("local: {n_ctx: 4096.5}", "local.n_ctx: expected a whole number, found 4096.5"),
        ("local: {n_ctx: true}", "local.n_ctx: expected a whole number, found True"),
        ("local: {n_ctx: 8}", "local.n_ctx: expected a value from 256 to"),
        ("local: {temperature: .nan}", "expected a value from 0 to 2, found nan"),
        ("local: {model: null}", "local.model: expected text, found null"),
        ("router: {threshold: 2}", "router.threshold: expected a value from 0 to 1, found 2.0"),
        ("router: {on_error: claud}", "expected local or cloud, found 'claud'; did you mean cloud?"),
        ("server: {drain_s: .inf}", "server.drain_s: expected a value from 0 to 3600, found inf"),
        ("log: {max_wait_ms: 1e18}", "log.max_wait_ms: expected"),
        ("log: {path: ~nosuchuser/x}", "log.path: expected the home of a user there is"),
        ('log: {path: "a\\0b"}', "log.path: expected text without control characters"),
        ("local: {n_ctx: 2026-13-45}", "not YAML"),
        ("[" * 5000, "not YAML"),
        ("log: [1]", "section log: expected `key: value` lines, found a list"),
        ("just text", "expected sections such as `cloud:`, found 'just text'"),
        ("a: b: c", "not YAML"),
        ("!!python/object:os.system {}", "not YAML"),
        ("cloud: {base_url: ftp://x, model: m}", "cloud.base_url: expected http:// or https://"),
        ("cloud: {base_url: http://example.com/v1, model: m}", "unencrypted; use https://"),
        ("cloud: {base_url: 'https://me:pw@example.com/v1', model: m}", "cloud.base_url: expected no user or password"),
        ("cloud: {base_url: https://example.com/v1}", "cloud.model: expected the model to ask for"),
        ("sync: {destination: /mnt/usb}", "sync.destination: expected https://HOST:PORT, file:///DIRECTORY"),
        ("sync: {destination: 'https://'}", "sync.destination: expected https://HOST:PORT"),
        ("sync: {destination: 'http://station:8700'}", "sync.destination: http://station:8700 would send the token"),
        ("sync: {destination: 'https://me:pw@station'}", "sync.destination: expected no user or password"),
        ("sync: {device_id: My Pi}", "sync.device_id: expected 1 to 64 of a-z 0-9 . _ -"),
        ("sync: {redact: email}", "sync.redact: expected a list of texts, found 'email'"),
        ("sync: {redact: [1]}", "sync.redact: expected a list of texts, found a list"),
        ("sync: {redact: ['(']}", "sync.redact: expected email, phone, ip, card or a regular expression, found '('"),
        ("sync: {redact: ['x*']}", "'x*' finds something in an empty text, so everywhere"),
        ("log: {max_days: 0}", "log.max_days: expected a value from 0.01 to 36500"),
        ("tcp: {port: 8642, host: 0.0.0.0}", "tcp.host: expected a loopback address such as 127.0.0.1"),
    ],
)
def test_a_wrong_file_is_named_with_key_expected_and_found(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_config(file, environ={})
    assert said in raised.value.message and str(file) in raised.value.message and raised.value.exit_code == 78


def test_an_unknown_variable_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean EDGE_AGENT_CLOUD_BASE_URL"):
        load_config(environ={"EDGE_AGENT_CLOUD_BASEURL": "https://x"})


def test_a_binary_file_is_not_a_config(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read|not YAML"):
        load_config(file, environ={})


def test_a_named_file_that_is_missing_is_an_error_and_an_unnamed_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found"):
        load_config(tmp_path / "none.yaml", environ={})
    assert load_config(environ={"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}).source is None


def test_the_file_is_found_where_the_system_puts_it(tmp_path: Path) -> None:
    (tmp_path / "edge-agent").mkdir()
    file = write(tmp_path / "edge-agent", "local: {n_ctx: 512}")
    for environ in (
        {"EDGE_AGENT_CONFIG": str(file)},
        {"CONFIGURATION_DIRECTORY": str(file.parent)},
        {"XDG_CONFIG_HOME": str(tmp_path)},
    ):
        assert load_config(environ=environ).local.n_ctx == 512


def test_directories_are_systemds_then_xdgs() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/edge-agent", "XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/s"}
    assert log_path(Config(), environ) == Path("/var/lib/edge-agent/edge-agent.db")
    assert socket_path(Config(), environ) == Path("/run/user/7/edge-agent.sock")
    assert xdg_dir("state", {"XDG_STATE_HOME": "/s"}) == Path("/s/edge-agent")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "localhost:8642", "::1", "[::1]:80", "127.9.9.9"])
def test_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "0.0.0.0", "example.com", "127.0.0.1.evil.com", "localhost.evil.com", "::", "[::2]"]
)
def test_what_only_looks_like_loopback_is_not(host: str) -> None:
    assert not is_loopback(host)


def test_lists_come_from_the_file_and_from_a_variable(tmp_path: Path) -> None:
    file = write(tmp_path, "sync: {redact: [email, 'door code \\d+']}")
    assert load_config(file, environ={}).sync.redact == ("email", "door code \\d+")
    assert load_config(file, environ={"EDGE_AGENT_SYNC_REDACT": "ip card"}).sync.redact == ("ip", "card")


def test_plain_http_goes_to_this_machine_or_where_it_is_allowed() -> None:
    for settings in ({"DESTINATION": "http://127.0.0.1:1"}, {"DESTINATION": "http://pi:1", "ALLOW_HTTP": "true"}):
        environ = {f"EDGE_AGENT_SYNC_{key}": value for key, value in settings.items()}
        assert load_config(environ=environ | {"EDGE_AGENT_SYNC_TOKEN": "x"}).sync.destination
