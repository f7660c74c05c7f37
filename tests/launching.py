"""Commands run by two workers on this machine, as `torchrun` starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch


def torchrun(*command):
    """Run a file, or `-m` and a module, with arguments, in two processes; return exit status, output, errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    whole = [sys.executable, *launch, *map(str, command)]
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}  # a test file that runs itself needs it
    with subprocess.Popen(whole, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        try:
            printed, errors = job.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            job.terminate()  # a kill would leave the workers behind
            raise
    return job.returncode, printed, errors


def saved_by_workers(file, folder):
    """Run a test file in two processes, and return what each of them has saved in the folder, as its rank and `.pt`."""
    code, _, errors = torchrun(file, folder)
    assert (code, errors) == (0, "")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
