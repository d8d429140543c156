"""Appends events from several threads and prints the ids of those that were acknowledged, until it is killed."""

import sys
import threading
from pathlib import Path

from qanchor.serving.inbox import Arrival, Inbox

inbox, run, printing = Inbox(Path(sys.argv[1])), sys.argv[2], threading.Lock()


def append(thread: int) -> None:
    for n in range(10_000):
        # every third is sent by two threads, as by a client that tries again
        id = f"{run}-{n}" if n % 3 == 0 else f"{run}-{thread}-{n}"
        word = ("bill", "bill", f"word {n}")
        arrival = Arrival(id, "bill/*.parquet", f"u{n % 5}", {"n": n}, ((n, 0, n, 1.0, word),))
        inbox.append([arrival]).result()
        with printing:
            print(id, flush=True)


for thread in range(4):
    threading.Thread(target=append, args=(thread,), daemon=True).start()
threading.Event().wait(60)
