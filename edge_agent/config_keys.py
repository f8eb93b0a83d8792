"""Every setting: its type, default, bounds and the comment config.yaml shows. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


def _key(default: Any, comment: str, minimum: float | None = None, maximum: float | None = None) -> Any:
    return field(default=default, metadata={"comment": comment, "minimum": minimum, "maximum": maximum})


@dataclass(frozen=True, slots=True)
class Socket:
    path: str | None = _key(None, "Unix socket; null: edge-agent.sock in $RUNTIME_DIRECTORY or $XDG_RUNTIME_DIR")
    group: str | None = _key(
        None, "group that may connect: the socket gets mode 0660 and this group; null: 0600, owner only"
    )


@dataclass(frozen=True, slots=True)
class Tcp:
    port: int | None = _key(None, "also listen on loopback TCP at this port; null: the Unix socket only", 1, 65535)
    host: str = _key("127.0.0.1", "a loopback address; anything else is refused")
    token_env: str = _key("EDGE_AGENT_TOKEN", "environment variable that holds the bearer token TCP clients must send")


@dataclass(frozen=True, slots=True)
class Server:
    max_body_bytes: int = _key(1_048_576, "largest request body", 1024, 1 << 30)
    max_messages: int = _key(256, "most messages in one request", 1, 65536)
    max_active: int = _key(32, "most exchanges at a time, cloud ones included; one more gets 429", 1, 1024)
    silent_client_s: float = _key(30.0, "close a connection that sends no complete request for this long", 0.1, 3600)
    drain_s: float = _key(30.0, "after SIGTERM, wait this long for running answers", 0, 3600)


@dataclass(frozen=True, slots=True)
class Local:
    model: str = _key("qwen2.5-coder-0.5b", "a name from `edge-agent pull --list`, or the path of a GGUF file")
    n_ctx: int = _key(4096, "context window in tokens, question and answer; at most what the model knows", 256, 1 << 24)
    n_threads: int = _key(0, "threads for generation; 0: one per core, minus one on four cores and more", 0, 1024)
    n_batch: int = _key(256, "prompt tokens evaluated at a time; smaller needs less memory", 8, 1 << 16)
    max_tokens: int = _key(1024, "longest answer when the client names no max_tokens", 1, 1 << 24)
    temperature: float = _key(0.7, "when the client names none", 0, 2)
    top_p: float = _key(0.8, "when the client names none", 0, 1)
    top_k: int = _key(20, "sample from this many most likely tokens; 0: all", 0, 1 << 24)
    max_waiting: int = _key(4, "requests that may wait for the local model; one more gets 429 busy", 0, 1024)


@dataclass(frozen=True, slots=True)
class Cloud:
    enabled: bool = _key(True, "false: nothing is ever sent to the cloud, whatever else is set")
    base_url: str | None = _key(
        None, "any OpenAI-compatible endpoint, such as https://api.example.com/v1; null: local only"
    )
    model: str | None = _key(None, "the model to ask for there; needed with base_url")
    api_key_env: str | None = _key(
        "EDGE_AGENT_CLOUD_API_KEY", "environment variable that holds the key; null: no key is sent"
    )
    connect_timeout_s: float = _key(3.0, "wait this long for a connection", 0.01, 3600)
    read_timeout_s: float = _key(60.0, "wait this long for the next bytes", 0.01, 3600)
    total_timeout_s: float = _key(300.0, "wait this long for the whole answer", 0.01, 86400)
    retries: int = _key(2, "further attempts before the first text, with back-off and jitter", 0, 10)
    breaker_failures: int = _key(3, "failures in a row that open the circuit breaker", 1, 1000000)
    breaker_cooldown_s: float = _key(30.0, "the open breaker asks nothing of the cloud for this long", 0, 86400)


@dataclass(frozen=True, slots=True)
class Router:
    path: str | None = _key(
        None, "router bundle; null: router_models/current of the state directory, the clone or the package"
    )
    threshold: float | None = _key(None, "escalate when score >= threshold; null: the one on the bundle's card", 0, 1)
    on_error: str = _key("local", "route when the router cannot score: local or cloud")
    n_threads: int = _key(1, "threads for the router", 1, 4)
    shadow: str | None = _key(
        None, "a candidate, by path or version: scores what the router scores, for the log only; null: none"
    )
    public_key: str | None = _key(
        None, "take only bundles signed with its other half, see docs/publishing.md; null: any bundle that is whole"
    )


@dataclass(frozen=True, slots=True)
class Log:
    path: str | None = _key(None, "SQLite file; null: edge-agent.db in $STATE_DIRECTORY or the XDG state directory")
    content: bool = _key(True, "false: rows hold sizes and decisions but no text")
    max_wait_ms: float = _key(
        100.0, "an answer waits this long for its row to be on disk, then ends without", 0, 60_000
    )
    max_days: float = _key(90.0, "rows that were uploaded, or are private, are deleted after this long", 0.01, 36500)
    max_mb: int = _key(256, "when the file holds more, the oldest of these rows are deleted first", 1, 1 << 20)
    prune_unsent: bool = _key(False, "true: max_mb may also delete the oldest rows that were never uploaded")


@dataclass(frozen=True, slots=True)
class Sync:
    destination: str | None = _key(
        None, "https://HOST:PORT of a receiver, or file://, s3://, sftp://; null: nothing is uploaded"
    )
    device_id: str | None = _key(
        None, "what the device is called there, a-z 0-9 . _ -; null: the host name made to fit"
    )
    token_env: str = _key("EDGE_AGENT_SYNC_TOKEN", "environment variable that holds the receiver's token")
    ca_file: str | None = _key(None, "certificates (PEM) that a receiver is trusted by; null: those of the system")
    allow_http: bool = _key(False, "true: http:// also to other machines; token and texts travel unencrypted")
    redact: tuple[str, ...] = _key((), "taken out of every text that leaves: email, phone, ip, card, or patterns")
    max_kb_s: float = _key(0.0, "upload at most this many kilobytes per second on average; 0: no limit", 0, 1e6)
    timeout_s: float = _key(60.0, "wait this long for a destination's answer", 0.1, 3600)
    give_up_s: float = _key(60.0, "keep trying a destination that fails for this long; the next run goes on", 0, 86400)


@dataclass(frozen=True, slots=True)
class Logging:
    level: str = _key("info", "debug, info, warning or error; lines go to standard error")
    format: str = _key("text", "text or json")
    prompts: bool = _key(False, "true: prompt text may appear in log lines; private prompts never do")


@dataclass(frozen=True, slots=True)
class Config:
    socket: Socket = field(default_factory=Socket, metadata={"comment": "where clients connect"})
    tcp: Tcp = field(default_factory=Tcp, metadata={"comment": "loopback TCP, for clients that speak no Unix sockets"})
    server: Server = field(default_factory=Server, metadata={"comment": "limits of the daemon"})
    local: Local = field(default_factory=Local, metadata={"comment": "the local model"})
    cloud: Cloud = field(default_factory=Cloud, metadata={"comment": "the cloud model"})
    router: Router = field(default_factory=Router, metadata={"comment": "who decides"})
    log: Log = field(default_factory=Log, metadata={"comment": "the decision log"})
    sync: Sync = field(default_factory=Sync, metadata={"comment": "where `edge-agent logs sync` takes the log's rows"})
    logging: Logging = field(default_factory=Logging, metadata={"comment": "what the daemon prints"})
    source: str | None = field(default=None, metadata={"hidden": True})
    """The file the settings came from; None when there was none."""


SECTIONS = [f.name for f in fields(Config) if not f.metadata.get("hidden")]
CHOICES = {
    ("router", "on_error"): ("local", "cloud"),
    ("logging", "level"): ("debug", "info", "warning", "error"),
    ("logging", "format"): ("text", "json"),
}
