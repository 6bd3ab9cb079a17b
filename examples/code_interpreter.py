"""A code interpreter without any workflow: what a model wrote runs in a box, and what it printed goes back.

python examples/code_interpreter.py docker:my-image      isolated; without a name, on this machine and not isolated
"""

import asyncio
import sys

from boxflow import Boxes, ExecResult

ANSWERS = [  # What a model might answer, one after another; each sees what the one before has left.
    (
        "numbers = [n for n in range(2, 50) if all(n % k for k in range(2, n))]\n"
        "open('primes.txt', 'w').write(' '.join(map(str, numbers)))\nprint(len(numbers), 'primes')"
    ),
    "print(sum(map(int, open('primes.txt').read().split())))",
    "import time; print('thinking ...', flush=True); time.sleep(60)",
    "print(1 / 0)",
]


def for_the_model(result: ExecResult) -> str:
    return result.stdout if result.ok else f"exit {result.exit_code}: {result.stderr.strip().splitlines()[-1]}"


async def main(sandbox: str = "local:") -> None:
    async with Boxes(sandbox) as boxes, boxes.create("interpreter") as box:
        for code in ANSWERS:
            try:
                print(for_the_model(await box.exec.code(code, "python", timeout="2s")).strip())
            except TimeoutError as late:
                print(late)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
