"""Schemathesis against all that `zonda serve` documents, with a tiny model and a key.

`python -m tests.clients.openapi PYTHON`, whose Python has Schemathesis, in an environment of its
own. Every check and every phase is on. Single requests are the same in each run; chains of them
are not, for what the server has kept is part of them. `--max-examples` says how many are drawn
for each operation, and so how long it takes; what else is given goes to Schemathesis. Chains
follow the document's own links: those that Schemathesis infers lead to what is there by chance.

One check is told more than it knows: requests that fit the document may be refused with 400, for
a schema cannot say which tool a choice names, or what a model's context holds. In its place
`openapi_checks` holds that no such refusal is about a request's shape.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.http_process import HttpServerProcess
from tests.helpers.tiny_gguf import write_tiny_llama

KEY = "the-key-of-these-tests"
MODEL = "tiny.gguf"
CONFIG = f"""
continue-on-failure = true
request-timeout = 60

[phases.stateful]
max-steps = 8
inference.algorithms = []

[dictionaries.models]
values = ["{MODEL}"]

[parameters]
"body.model" = {{ dictionary = "models", probability = 0.8 }}
"path.model" = {{ dictionary = "models", probability = 0.8 }}

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "400", "401", "403", "404", "429"]

[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "415", "429"]
"""
SINGLE = ("--phases", "examples,coverage,fuzzing", "--generation-deterministic")
CHAINS = ("--phases", "stateful", "--generation-database", "none")
"""For them the server is a new one: what others have left there makes Schemathesis end early."""
CHAINS_PER_EXAMPLE = 10


def main(python: Path, max_examples: int, options: list[str]) -> int:
    """Run it; return 1 where it found a failure, or the server had an error."""
    single = [*SINGLE, "--max-examples", str(max_examples)]
    chains = [*CHAINS, "--max-examples", str(CHAINS_PER_EXAMPLE * max_examples)]
    with TemporaryDirectory() as folder:
        write_tiny_llama(Path(folder) / MODEL, context_length=128)
        return max(_run(python, Path(folder), [*one, *options]) for one in (single, chains))


def _run(python: Path, folder: Path, options: list[str]) -> int:
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG, encoding="utf-8")
    environ = {**os.environ, "ZONDA_API_KEY": KEY, "PYTHONPATH": str(Path.cwd())}
    hooks = {"SCHEMATHESIS_HOOKS": "tests.clients.openapi_checks"}
    with HttpServerProcess("--model", MODEL, environ=environ, folder=folder) as server:
        command = [str(python.absolute()), "-m", "schemathesis.cli", "--config-file", str(config)]
        command += ["run", server.url.removesuffix("/mcp") + "/openapi.json"]
        command += ["--header", f"Authorization: Bearer {KEY}", *options]
        reader = threading.Thread(target=server.wait)  # its log would fill the pipe
        reader.start()
        run = subprocess.run(command, env={**environ, **hooks}, cwd=folder, check=False)
        server.stop()
        reader.join()
    failed = [line for line in server.log if " ERROR " in line]
    sys.stdout.writelines(failed)
    return int(bool(run.returncode or failed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("python", type=Path)
    parser.add_argument("--max-examples", type=int, default=10)
    known, rest = parser.parse_known_args()
    sys.exit(main(known.python, known.max_examples, rest))
