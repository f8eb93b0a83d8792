"""The conversation at a prompt: reads lines, streams answers, remembers the turns. The daemon does everything else.

Knows the commands and what stays private. Does not know HTTP (client) nor how a terminal looks (display).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from edge_agent.client import Client, Delta, Final, Started
from edge_agent.display import Console, answer_line, route_line, utf8
from edge_agent.errors import EdgeAgentError, RequestError
from edge_agent.types import new_id

if TYPE_CHECKING:
    from edge_agent.types import Wish

ReadLine = Callable[[str], str]
"""Shows a prompt and returns a line without its end; EOFError at the end, KeyboardInterrupt on Ctrl-C."""


@dataclass(slots=True)
class Conversation:
    private: bool
    """Until the end of the conversation: the text of a private turn travels with every later one."""
    id: str = field(default_factory=new_id)
    messages: list[dict[str, str]] = field(default_factory=list)
    """The turns that were answered."""
    asked: list[dict[str, str]] = field(default_factory=list)
    """The messages of the last question, answered or not."""
    answer_id: str | None = None
    """The exchange that /good and /bad rate."""


class Chat:
    """A person at a prompt. It outlives failed answers, stopped answers and restarts of the daemon."""

    def __init__(
        self,
        client: Client,
        console: Console,
        read_line: ReadLine,
        *,
        remember: Callable[[str], None] = lambda line: None,
        interactive: bool = True,
        model: Wish = "auto",
        private: bool = False,
    ):
        """`remember` gets what may go into the history file; `interactive`: Ctrl-C stops an answer, not the program."""
        self._client, self._console, self._read_line, self._remember = client, console, read_line, remember
        self._interactive, self._model, self._starts_private = interactive, model, private
        self._talk = Conversation(private)
        self._over = self._failed = False

    def run(self) -> int:
        """Reads and answers until /exit, the end of the input or two Ctrl-C in a row.

        :return: the exit code: 1 when nobody watched and a line failed, else 0.
        """
        interrupts = 0
        while not self._over and interrupts < 2:
            try:
                line = read_entry(self._read_line, self._prompt())
                interrupts = 0
                self._handle(line)
            except EOFError:
                break
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                interrupts += 1
                if interrupts == 1:
                    self._console.note("Ctrl-C again, or Ctrl-D, leaves")
        return int(self._failed and not self._interactive)

    def _prompt(self) -> str:
        model = "" if self._model == "auto" else self._model
        return " ".join(filter(None, [model, "private" if self._talk.private else ""])) + "> "

    def _handle(self, line: str) -> None:
        if not line.strip():
            return
        if not self._talk.private and not line.startswith("/private"):
            self._remember(line)
        try:
            if line.startswith("/"):
                self._command(*line.strip().partition(" ")[::2])
            else:
                self._ask(line.strip())
        except EdgeAgentError as error:
            self._failed = True
            hint = "; /clear starts a new conversation" if error.code == "context_exceeded" else ""
            self._console.error(error.message + hint)

    def _ask(self, question: str) -> None:
        """One turn. It joins the conversation with its answer, whole or stopped; a failed one leaves no trace."""
        self._talk.asked = [*self._talk.messages, {"role": "user", "content": question}]
        self._talk.answer_id = None
        text: list[str] = []
        try:
            final = self._stream(text)
            remark = answer_line(final.edge_agent, final.finish_reason)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
            remark = "stopped"
        answer = "".join(text)
        if answer.strip():
            self._talk.messages = [*self._talk.asked, {"role": "assistant", "content": answer}]
        self._console.note(remark)

    def _stream(self, text: list[str]) -> Final:
        """Writes the answer as it comes and collects it in `text`."""
        try:
            with closing(self._client.chat(self._talk.asked, **self._wishes())) as events:
                for event in events:
                    if isinstance(event, Started):
                        self._talk.answer_id = event.id
                    elif isinstance(event, Delta):
                        text.append(event.text)
                        self._console.write(event.text)
                    else:
                        self._talk.answer_id = event.edge_agent.get("id", self._talk.answer_id)
                        return event
        except KeyboardInterrupt:
            self._console.write("\n")  # the terminal wrote ^C behind whatever was there
            raise
        finally:
            self._console.end_line()
        raise AssertionError("a stream ends with Final or an error")

    def _wishes(self) -> dict[str, Any]:
        return {"model": self._model, "private": self._talk.private, "conversation_id": self._talk.id}

    def _command(self, name: str, text: str) -> None:
        if name not in COMMANDS:
            raise RequestError(f"unknown command {name}; see /help, or begin the question with a space")
        if text.strip() and name != "/route":
            raise RequestError(f"{name} takes no text; type it alone")
        match name:
            case "/route":
                self._route(text.strip())
            case "/local" | "/cloud" | "/auto":
                self._choose(name[1:])  # type: ignore[arg-type]
            case "/private":
                self._talk.private = True
                self._console.note("private from here on: stays on this device, no text in the log; /clear ends it")
            case "/good" | "/bad":
                self._rate(name[1:])
            case "/clear":
                self._talk = Conversation(self._starts_private)
                self._console.note("conversation forgotten")
            case "/help":
                self._help()
            case "/exit" | "/quit":
                self._over = True

    def _route(self, text: str) -> None:
        asked = [*self._talk.messages, {"role": "user", "content": text}] if text else self._talk.asked
        if not asked:
            raise RequestError("no question yet; type /route and one")
        self._console.line(route_line(self._client.route(asked, **self._wishes())))

    def _choose(self, model: Wish) -> None:
        self._model = model
        who = {"auto": "the router decides", "local": "the local model answers", "cloud": "the cloud model answers"}
        but = "; private turns stay on this device all the same" if model == "cloud" and self._talk.private else ""
        self._console.note(f"{who[model]} from here on{but}")

    def _rate(self, rating: str) -> None:
        if self._talk.answer_id is None:
            raise RequestError("no answer to rate yet; ask something first")
        self._client.feedback(self._talk.answer_id, rating)
        self._console.note(f"rated {rating}")

    def _help(self) -> None:
        for name, help in COMMANDS.items():
            self._console.line(f"{name:<10} {help}")
        self._console.line("A line that ends in \\ goes on in the next. Ctrl-C stops an answer.")


COMMANDS = {
    "/route": "with a question: who would answer it, and why; alone: the same for the last question",
    "/local": "the local model answers from here on",
    "/cloud": "the cloud model answers from here on",
    "/auto": "the router decides from here on",
    "/private": "this conversation stays on this device from here on, without text in the log",
    "/good": "the last answer was good",
    "/bad": "the last answer was bad",
    "/clear": "forgets the conversation and begins a new one",
    "/help": "this list",
    "/exit": "leaves, as /quit and Ctrl-D do",
    "/quit": "leaves",
}


def read_entry(read_line: ReadLine, prompt: str) -> str:
    """One question or command; a line that ends in a backslash goes on in the next."""
    lines = [read_line(prompt)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(read_line("... "))
        except EOFError:
            break
    return "\n".join(lines)


class History:
    """What was typed before, oldest first: a file only its owner can read. A chat works without it."""

    def __init__(self, path: Path, *, keep: int = 1000):
        """`keep`: how many of the last lines are offered again."""
        self._path, self._keep = path, keep

    def lines(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").splitlines()[-self._keep :]
        except OSError:
            return []

    def append(self, entry: str) -> None:
        """Adds the entry as it was typed: each line but the last ends in a backslash."""
        data = (entry.replace("\n", "\\\n") + "\n").encode("utf-8", errors="replace")
        # A chat without history, on a read-only disk say, is better than no chat.
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.fchmod(descriptor, 0o600)  # it may have been there before, with another mode
                os.write(descriptor, data)
            finally:
                os.close(descriptor)


def terminal_reader(history: History) -> ReadLine:
    """Lines from the terminal: edited by prompt_toolkit if it is installed, else by readline."""
    try:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import WordCompleter
        from prompt_toolkit.history import InMemoryHistory
    except ImportError:
        return _readline_reader(history)
    # In memory: prompt_toolkit's own file would also get the private lines.
    session: PromptSession[str] = PromptSession(
        history=InMemoryHistory(history.lines()),
        completer=WordCompleter(list(COMMANDS), sentence=True),
        complete_while_typing=False,
    )
    return lambda prompt: session.prompt(prompt)


def _readline_reader(history: History) -> ReadLine:
    with suppress(ImportError):  # without it, lines are still read, but not edited
        import readline

        for line in history.lines():
            readline.add_history(line)

    def read_line(prompt: str) -> str:
        try:
            return input(prompt)
        except (EOFError, KeyboardInterrupt):
            print()  # the terminal is still on the prompt's line
            raise

    return read_line


def piped_reader(stream: BinaryIO) -> ReadLine:
    """Lines from a pipe or a file, without a prompt."""

    def read_line(prompt: str) -> str:
        line = stream.readline()
        if not line:
            raise EOFError
        return utf8(line).rstrip("\r\n")

    return read_line
