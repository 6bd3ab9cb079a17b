"""How does an attack tell what came of it? Follows each program: a line for each function, "held" or "not held"."""

import errno as _errno
import json as _json
import sys as _sys

# An attack that ends with one of these was refused. Any other error is one of the attack, and no verdict.
_REFUSED = (_errno.EPERM, _errno.EACCES, _errno.EROFS, _errno.ENOSYS, _errno.EAFNOSUPPORT, _errno.EPROTONOSUPPORT)


def _tell(name, facts):
    # Secrets come backwards: what searches arguments for one must not find its own.
    facts = {key: value[::-1] if key.endswith("_secret") else value for key, value in facts.items()}
    try:
        succeeded, words = globals()[name](facts)
    except OSError as exc:
        if exc.errno not in _REFUSED:
            raise
        succeeded, words = False, exc.strerror
    print(f"{'not held' if succeeded else 'held'}: {' '.join(words.split())}", flush=True)


for _name, _facts in _json.loads(_sys.argv[1]):
    _tell(_name, _facts)
