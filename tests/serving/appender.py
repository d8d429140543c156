"""Forks children that append events from several threads, kills each, and prints the ids that were acknowledged."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from qanchor.serving.inbox import Arrival, Inbox


def append(inbox: Inbox, pipe: int, run: int, thread: int) -> None:
    for n in range(100_000):
        # every third is sent by all threads, as by a client that tries again
        id = f"{run}-{n}" if n % 3 == 0 else f"{run}-{thread}-{n}"
        arrival = Arrival(id, "bill/*.parquet", f"u{n % 5}", {"n": n}, ((n, 0, n, 1.0, ("bill", "bill", f"word {n}")),))
        inbox.append([arrival]).result()
        os.write(pipe, f"{id}\n".encode())


for run in range(4):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        inbox = Inbox(Path(sys.argv[1]))
        for thread in range(4):
            threading.Thread(target=append, args=(inbox, writing, run, thread), daemon=True).start()
        threading.Event().wait(60)
        os._exit(1)
    os.close(writing)
    said = os.read(reading, 1 << 16)  # it is at work
    time.sleep(0.03 * run)
    os.kill(child, signal.SIGKILL)
    while more := os.read(reading, 1 << 16):
        said += more
    os.waitpid(child, 0)
    os.close(reading)
    print(said[: said.rindex(b"\n")].decode())
