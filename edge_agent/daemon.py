"""The composition root: the only place that knows every room. Builds them, runs the server, ends in order."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import uvicorn

from edge_agent import __version__, model_store
from edge_agent.agent import Agent
from edge_agent.cloud_model import CloudModel
from edge_agent.config import Config, cloud_key, cloud_problem, device_id, find_socket, log_path, socket_path, xdg_dir
from edge_agent.decision_log import DecisionLog
from edge_agent.errors import ConfigError
from edge_agent.listeners import UnixListener, bind_tcp, peer_protocol
from edge_agent.local_model import LocalModel
from edge_agent.log_status import retention_of
from edge_agent.notify import notify, watchdog_interval_s
from edge_agent.policy import REASONS
from edge_agent.router_slots import RouterSlots
from edge_agent.server import Server
from edge_agent.sync_state import FILE_NAME as SYNC_STATE
from edge_agent.sync_state import SyncState

_LOGGER = logging.getLogger("edge_agent")
_BACKLOG = 16
"""asyncio tries to accept, and logs a failure for want of descriptors, this many times in a row."""
_LAST_WORDS_S = 2
"""For the errors that end what was still running when draining was over."""


class Daemon:
    """Everything that runs, built from the settings.

    :raises EdgeAgentError: when a part cannot be built; what was built before is closed again.
    """

    def __init__(self, config: Config, environ: Mapping[str, str] | None = None):
        environ = os.environ if environ is None else environ
        self._config, self._started = config, time.monotonic()
        self.routers = RouterSlots(config.router, xdg_dir("state", environ))
        self._told_to_reload = threading.Event()
        with ExitStack() as stack:
            self.unix = UnixListener(socket_path(config, environ), config.socket.group)
            stack.callback(self.unix.close)
            self.sockets = [self.unix.socket]
            token = _token(config, environ)
            if config.tcp.port is not None:
                self.sockets.append(bind_tcp(config.tcp.host, config.tcp.port))
                stack.callback(self.sockets[-1].close)
            self.log = DecisionLog(
                log_path(config, environ),
                content=config.log.content,
                max_wait_ms=config.log.max_wait_ms,
                retention=retention_of(
                    config.log,
                    config.sync,
                    SyncState(xdg_dir("state", environ) / SYNC_STATE),
                    device_id(config),
                ),
            )
            stack.callback(self.log.close)
            self.cloud = build_cloud(config, environ)
            if isinstance(self.cloud, CloudModel):
                stack.callback(self.cloud.close)
            self.routers.load()
            give_back_memory()
            loading = time.monotonic()
            self.local = build_local(config, environ)
            self.load_s = time.monotonic() - loading
            stack.callback(self.local.close)
            self.agent = Agent(
                router=self.routers.active,
                shadow=self.routers.shadow,
                local=self.local,
                cloud=self.cloud,
                log=self.log,
                threshold=config.router.threshold,
                on_router_error="cloud" if config.router.on_error == "cloud" else "local",
                show_prompts=config.logging.prompts,
            )
            self.server = Server(
                self.agent,
                self.log,
                status=self.status,
                models=self._models(),
                token=token,
                max_body_bytes=config.server.max_body_bytes,
                max_messages=config.server.max_messages,
                max_active=config.server.max_active,
                silent_client_s=config.server.silent_client_s,
                on_start=self._ready,
            )
            stack.callback(self.server.close)
            self._stack = stack.pop_all()

    @property
    def tcp_url(self) -> str | None:
        """Where TCP clients connect, with the token; None when only the Unix socket listens."""
        return f"http://{self._config.tcp.host}:{self._config.tcp.port}/v1" if self._config.tcp.port else None

    def no_cloud(self) -> str:
        """Why there is no cloud, in words that name the variable when it is the key."""
        name = f" ({self._config.cloud.api_key_env})" if self.cloud == "cloud_no_key" else ""
        return REASONS[str(self.cloud)] + name

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then finish the running answers and close everything in order."""
        server = self._config.server
        config = uvicorn.Config(
            self.server.app,
            http=peer_protocol(
                silent_client_s=server.silent_client_s, foreign_allowed=self._config.socket.group is not None
            ),
            loop="asyncio",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=int(server.drain_s) + _LAST_WORDS_S,
        )
        running = _DrainingServer(config, server.drain_s, self.server.stop)

        def stop(*_: object) -> None:  # before uvicorn listens, and when it raises them again
            running.should_exit = True

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        with self._stack:
            running.run(sockets=self.sockets)
        _LOGGER.info("stopped")

    def reload_router(self) -> None:
        """Load the bundles anew; when the router's is refused the old one stays."""
        routers = self.routers
        old = routers.active.version if routers.active else None
        routers.load()
        self.agent.router, self.agent.shadow = routers.active, routers.shadow
        if routers.error is None and routers.active is not None:
            _LOGGER.info("router %s loaded (before: %s)", routers.active.version, old)
        else:
            _LOGGER.error("router %s stays in use", old)
        give_back_memory()

    def _reload_when_told(self) -> None:
        """One reload at a time; signals that come meanwhile ask for one more."""
        while self._told_to_reload.wait():
            self._told_to_reload.clear()
            self.reload_router()

    def status(self) -> dict[str, Any]:
        """What GET /v1/status answers."""
        config, cloud = self._config, self.cloud
        usable = isinstance(cloud, CloudModel)
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "config": config.source,
            "socket": str(self.unix.path),
            "tcp": self.tcp_url,
            "local": {
                "model": self.local.name,
                "n_ctx": self.local.n_ctx,
                "n_threads": self.local.n_threads,
                "load_s": round(self.load_s, 2),
                "busy": self.local.busy,
                "waiting": self.local.waiting,
                "broken": self.local.broken,
            },
            "cloud": {
                "configured": config.cloud.base_url is not None,
                "enabled": config.cloud.enabled,
                "usable": usable,
                "problem": None if isinstance(cloud, CloudModel) else REASONS[cloud],
                "base_url": config.cloud.base_url,
                "model": config.cloud.model,
                "breaker": cloud.state if isinstance(cloud, CloudModel) else None,
                "last_error": cloud.last_error if isinstance(cloud, CloudModel) else None,
            },
            "router": self.routers.status(),
            "log": self.log.status(),
        }

    def _models(self) -> dict[str, str]:
        cloud = self._config.cloud.model if isinstance(self.cloud, CloudModel) else None
        return {"auto": "edge-agent", "local": self.local.name, "cloud": cloud or "none"}

    def _ready(self) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._reload_when_told, name="router-reload", daemon=True).start()
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload.set)
        interval_s = watchdog_interval_s()
        if interval_s is not None:
            loop.call_later(interval_s, self._watch, loop, interval_s, -1)
        notify(f"READY=1\nSTATUS=serving on {self.unix.path}")
        print(greeting(self), flush=True)

    def _watch(self, loop: asyncio.AbstractEventLoop, interval_s: float, last_heartbeat: int) -> None:
        """Tell systemd we live, as long as the engine moves or has nothing to do."""
        heartbeat = self.local.heartbeat
        if heartbeat != last_heartbeat or not self.local.busy:
            notify("WATCHDOG=1")
        loop.call_later(interval_s, self._watch, loop, interval_s, heartbeat)


def give_back_memory() -> None:
    """glibc keeps what loading a router took, and what an old one held: tens of MB."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class _DrainingServer(uvicorn.Server):
    """uvicorn's server; what still runs after `drain_s` is told to end."""

    def __init__(self, config: uvicorn.Config, drain_s: float, stop: Callable[[], None]):
        super().__init__(config)
        self._drain_s, self._stop = drain_s, stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify("STOPPING=1")
        _LOGGER.info("stopping; running answers have %g s to end, Ctrl-C stops them now", self._drain_s)
        asyncio.get_running_loop().call_later(self._drain_s, self._stop)
        await super().shutdown(sockets)


def serve(config: Config) -> int:
    """Run the daemon until it is told to stop; the exit code."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload before there is a router to reload
    set_up_logging(config.logging.level, config.logging.format)
    Daemon(config).run()
    return 0


def build_cloud(config: Config, environ: Mapping[str, str]) -> CloudModel | str:
    """The cloud model, or the reason there is none (a word of policy.REASONS)."""
    cloud, problem = config.cloud, cloud_problem(config, environ)
    if problem or cloud.base_url is None or cloud.model is None:
        return problem or "cloud_not_configured"
    return CloudModel(
        base_url=cloud.base_url,
        model=cloud.model,
        api_key=cloud_key(config, environ),
        connect_timeout_s=cloud.connect_timeout_s,
        read_timeout_s=cloud.read_timeout_s,
        total_timeout_s=cloud.total_timeout_s,
        retries=cloud.retries,
        breaker_failures=cloud.breaker_failures,
        breaker_cooldown_s=cloud.breaker_cooldown_s,
    )


def build_local(config: Config, environ: Mapping[str, str]) -> LocalModel:
    """The local model, verified before llama.cpp sees it."""
    local, store = config.local, xdg_dir("cache", environ) / "models"
    path = model_store.resolve(local.model, store)
    model_store.verify(path, store)
    return LocalModel(
        path,
        n_ctx=local.n_ctx,
        n_threads=local.n_threads,
        n_batch=local.n_batch,
        max_tokens=local.max_tokens,
        temperature=local.temperature,
        top_p=local.top_p,
        top_k=local.top_k,
        max_waiting=local.max_waiting,
    )


def greeting(daemon: Daemon) -> str:
    """What a person sees once the daemon is ready: who answers, where, and what to type next."""
    cloud, router = daemon.cloud, daemon.agent.router
    beside = Path(sys.executable).with_name("edge-agent")
    command = "edge-agent" if shutil.which("edge-agent") or not beside.exists() else _shortest(beside)
    usual = daemon.unix.path == find_socket(Config())
    option = "" if usual else f" --socket {daemon.unix.path}"
    asks = (
        f"{cloud.model} at {cloud.base_url}"
        if isinstance(cloud, CloudModel)
        else f"none: {daemon.no_cloud()}; everything stays local"
    )
    lines = {
        "local model": f"{daemon.local.name} (loaded in {daemon.load_s:.1f} s)",
        "cloud model": asks,
        "router": f"{router.version}" if router else f"none: {daemon.routers.error}",
        "log": str(daemon.log.path),
        "socket": str(daemon.unix.path),
        "tcp": daemon.tcp_url,
    }
    shown = "\n".join(f"  {name:<12} {value}" for name, value in lines.items() if value)
    return f"edge-agent is ready\n{shown}\n\nIn another shell:  {command} chat{option}\nStop with Ctrl-C.\n"


def _shortest(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        return super().format(record) + "".join(f" {name}={value!r}" for name, value in facts.items())


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        error = {"traceback": self.formatException(record.exc_info)} if record.exc_info else {}
        return json.dumps(line | error, ensure_ascii=False)


def set_up_logging(level: str, form: str) -> None:
    """Lines to standard error, one for each exchange; prompt text only with logging.prompts."""
    handler = logging.StreamHandler()
    text = _TextFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter() if form == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it tells of the tasks that stopping cancels
    for noisy in ("uvicorn", "urllib3", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    if level != "debug":
        logging.getLogger("llama.cpp").setLevel(logging.ERROR)


def _token(config: Config, environ: Mapping[str, str]) -> str | None:
    if config.tcp.port is None:
        return None
    token = environ.get(config.tcp.token_env)
    if not token:
        raise ConfigError(
            f"tcp.port is set but the variable {config.tcp.token_env} (tcp.token_env) is not: TCP clients need a token;"
            f" set one, for example: export {config.tcp.token_env}=$(openssl rand -hex 32)"
        )
    if not (token.isascii() and token.isprintable()):
        raise ConfigError(f"the token in {config.tcp.token_env}: expected printable ASCII; try `openssl rand -hex 32`")
    return token
