"""The agent: reads a diff in its box, writes the same change in another language, calls its webhook.

It imports nothing of boxflow, and stands for a large program. What it shares with a real agent: it is a process of its
own, takes its time, changes files in a repository, takes feedback, and nobody waits for it on a line that could break.
It is told what to do in `task.json`. Started twice, it works once. Its webhook is called until somebody answers.
"""

from __future__ import annotations

import ast
import fcntl
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SOURCE = "python/weather.py"
TARGETS = {"go": "go/weather.go", "typescript": "typescript/weather.ts", "ruby": "ruby/weather.rb"}
TYPES = {
    "go": {"int": "int", "float": "float64", "str": "string"},
    "typescript": {"int": "number", "float": "number", "str": "string"},
}
GIVE_UP_AFTER_S = 600.0


def main() -> None:
    with Path("agent.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("another one of me is at work here")
            return
        task = json.loads(Path("task.json").read_text(encoding="utf-8"))
        finished = Path("report.json")
        if not finished.exists():
            report = work(task)
            finished.write_text(json.dumps(report), encoding="utf-8")
        call(task["webhook_url"], finished.read_bytes())


def work(task: dict[str, Any]) -> dict[str, str]:
    language, change = task["language"], task["change"]
    say("reads the diff")
    # From the commit, not from the file: it may hold what a former life of ours wrote.
    text, names, nodes = git("show", f"HEAD:{TARGETS[language]}"), [], added(change["commit"])
    for node in nodes:
        name = node.name if isinstance(node, ast.FunctionDef) else ast.unparse(node.targets[0])
        say(f"ports {name}")
        time.sleep(change["work_s"] / len(nodes))
        text = insert(text, Writer(language).declaration(node), language)
        names.append(name)
    if task["feedback"]:
        say(f"heeds: {task['feedback']}")
        text = note(text, task["feedback"], language)
    Path("sdk", TARGETS[language]).write_text(text, encoding="utf-8")
    return {"summary": f"{language}: {', '.join(names)}", "feedback": task["feedback"]}


def added(commit: str) -> list[ast.FunctionDef | ast.Assign]:
    """What the commit added to the Python SDK, as syntax."""
    diff = git("show", "--format=", "--unified=0", commit, "--", SOURCE)
    lines = [line[1:] for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    return [node for node in ast.parse("\n".join(lines)).body if isinstance(node, ast.FunctionDef | ast.Assign)]


def type_of(annotation: ast.expr | None) -> str:
    return "" if annotation is None else ast.unparse(annotation)


def git(*args: str) -> str:
    return subprocess.run(["git", *args], cwd="sdk", check=True, capture_output=True, text=True).stdout


class Writer:
    """Writes simple Python declarations in another language; says so when it cannot."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.integers: set[str] = set()

    def declaration(self, node: ast.FunctionDef | ast.Assign) -> str:
        return self.constant(node) if isinstance(node, ast.Assign) else self.function(node)

    def constant(self, node: ast.Assign) -> str:
        name, value = self.name(ast.unparse(node.targets[0])), self.expression(node.value)
        form = {"go": "const {} = {}", "typescript": "export const {} = {};", "ruby": "  {} = {}"}
        return form[self.language].format(name, value)

    def function(self, node: ast.FunctionDef) -> str:
        parameters = [(argument.arg, type_of(argument.annotation)) for argument in node.args.args]
        self.integers = {name for name, kind in parameters if kind == "int"}
        *statements, last = node.body[1:]
        assigns = [
            (ast.unparse(s.targets[0]), self.expression(s.value)) for s in statements if isinstance(s, ast.Assign)
        ]
        if len(assigns) < len(statements) or not isinstance(last, ast.Return) or last.value is None:
            raise SystemExit(f"cannot port {node.name!r} to {self.language}: it does more than assign and return")
        result, words, name = self.expression(last.value), ast.get_docstring(node), self.name(node.name)
        if self.language == "ruby":
            body = [f"{left} = {right}" for left, right in assigns]
            lines = [f"# {words}", f"def self.{name}({', '.join(p for p, _ in parameters)})"]
            return "\n".join(f"  {line}" for line in [*lines, *(f"  {line}" for line in [*body, result]), "end"])
        kinds = TYPES[self.language]
        if self.language == "go":
            body = [f"{left} := {right}" for left, right in assigns]
            taken = ", ".join(f"{self.name(p)} {kinds[kind]}" for p, kind in parameters)
            lines = [f"// {words}", f"func {name}({taken}) {kinds[type_of(node.returns)]} {{"]
            return "\n".join([*lines, *(f"\t{line}" for line in [*body, f"return {result}"]), "}"])
        body = [f"const {left} = {right};" for left, right in assigns]
        taken = ", ".join(f"{self.name(p)}: {kinds[kind]}" for p, kind in parameters)
        lines = [f"/** {words} */", f"export function {name}({taken}): {kinds[type_of(node.returns)]} {{"]
        return "\n".join([*lines, *(f"  {line}" for line in [*body, f"return {result};"]), "}"])

    def expression(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=value):
                return json.dumps(value)
            case ast.Name(id=name):
                own = self.name(name)
                return f"float64({own})" if self.language == "go" and name in self.integers else own
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                power = {"go": "math.Pow({}, {})", "typescript": "{} ** {}", "ruby": "{}**{}"}[self.language]
                return power.format(self.expression(left), self.expression(right))
            case ast.BinOp(left=left, op=op, right=right):
                sign = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}[type(op)]
                return f"{self.operand(left, op)} {sign} {self.operand(right, op, is_right=True)}"
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=args):
                taken = ", ".join(self.expression(argument) for argument in args)
                if self.language == "ruby":
                    return f"[{taken}].{name}"
                return f"{'math.' + name.title() if self.language == 'go' else 'Math.' + name}({taken})"
        raise SystemExit(f"cannot port {ast.unparse(node)!r} to {self.language}")

    def operand(self, node: ast.expr, outer: ast.operator, *, is_right: bool = False) -> str:
        text = self.expression(node)
        if not isinstance(node, ast.BinOp) or isinstance(node.op, ast.Pow):
            return text
        is_sum, in_sum = isinstance(node.op, ast.Add | ast.Sub), isinstance(outer, ast.Add | ast.Sub)
        keeps_order = (in_sum and not is_sum) or (not is_right and is_sum == in_sum)
        return text if keeps_order else f"({text})"

    def name(self, name: str) -> str:
        """A Python name as the language writes it: `retry_delay` as `RetryDelay`, `retryDelay` or `retry_delay`."""
        words = name.lower().split("_")
        if self.language == "ruby" or (self.language == "typescript" and name.isupper()):
            return name
        if self.language == "go" and (name.isupper() or len(words) > 1):
            return "".join(word.title() for word in words)
        return words[0] + "".join(word.title() for word in words[1:])


def insert(text: str, declaration: str, language: str) -> str:
    """Put a declaration at the end of a file; in Ruby that is before the `end` of its module."""
    if language == "ruby":
        return text.rstrip().removesuffix("end").rstrip() + f"\n\n{declaration}\nend\n"
    return f"{text.rstrip()}\n\n{declaration}\n"


def note(text: str, feedback: str, language: str) -> str:
    """Take feedback to heart: this agent is a small one, and writes it down at the top, for the next reader."""
    mark = "#" if language == "ruby" else "//"
    return f"{mark} Reviewed: {' '.join(feedback.split())}\n{text}"


def say(words: str) -> None:
    print(words, flush=True)


def call(url: str, body: bytes) -> None:
    """POST until it is answered: whoever waits for us may be dead just now, and comes back."""
    pause_s, deadline = 0.1, time.monotonic() + GIVE_UP_AFTER_S
    while time.monotonic() < deadline:
        say("calls its webhook")
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                say(f"is done ({answer.status})")
                return
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                sys.exit(f"nobody waits for me any more ({error.code})")
        except OSError:
            pass  # Nobody there: that is what the loop is for.
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 1.0)
    sys.exit("nobody answered")


if __name__ == "__main__":
    main()
