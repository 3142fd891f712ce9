"""What tasks of tests of the engine do. A copy stands in a folder of its own as the module `tasks`: workers import nothing else of the tests."""

import fcntl
import mmap
import os
import signal
import subprocess
import sys
import threading
import time

from clsuite.errors import Interrupted, UsageError

ballast = bytearray(200_000_000) if os.environ.get("BALLAST") else b""


def echo(p):
    return p


def raises(p):
    raise {"value": ValueError, "usage": UsageError, "memory": MemoryError, "torch": RuntimeError, "left": Interrupted}[p["kind"]](p["text"])


def leaves(p):
    sys.exit(p["code"])


def exits(p):
    os._exit(p["code"])


def dies(p):
    os.kill(os.getpid(), p["signal"])
    time.sleep(60)


def returns_what_is_not_plain(p):
    return object()


def lets_a_child_come_back(p):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
    return os.getpid()


def sleeps(p):
    time.sleep(p["seconds"])
    return p["seconds"]


def prints(p):
    print("printed")
    print("to stderr", file=sys.stderr)
    os.write(1, b"written\n")
    subprocess.run(["echo", "from a child"])


def prints_and_exits(p):
    print("last words")
    os._exit(9)


def prints_much(p):
    for number in range(200_000):
        print("line", number, "\udcff and läßt")
    os.write(1, bytes(range(256)) * 40 + b"\n" * 3 + b"end")


def spoils_stdout(p):
    print("before")
    if p["how"] == "closed":
        sys.stdout.close()
    elif p["how"] == "none":
        sys.stdout = sys.stderr = None
    else:
        os.close(1)
        os.close(2)
    return "still here"


def appends(p):
    with open(p["file"], "a") as file:
        file.write(p["line"] + "\n")


def holds_its_slot(p):
    slot = os.environ.get("CUDA_VISIBLE_DEVICES")
    with open(f"{p['folder']}/slot-{slot}", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when another task is on it
        time.sleep(0.05)
    return slot


def counts_its_files(p):
    return len(os.listdir("/proc/self/fd"))


def ignores_sigterm(p):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open(p["file"], "w").close()
    time.sleep(60)


def leaves_when_asked(p):
    def leave(*_):
        raise Interrupted

    signal.signal(signal.SIGTERM, leave)
    open(p["file"], "w").close()
    time.sleep(60)


def fails_when_asked(p):
    def fail(*_):
        raise ValueError("disturbed")

    signal.signal(signal.SIGTERM, fail)
    time.sleep(60)


def finishes_when_asked(p):
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    while not asked:
        time.sleep(0.01)
    return "finished"


def fills(p):
    mine = bytearray(200_000_000)
    time.sleep(p.get("seconds", 60))
    return len(mine)


def fills_in_a_child(p):
    def start():
        subprocess.run([sys.executable, "-c", "x = bytearray(200_000_000); import time; time.sleep(60)"])

    if p["thread"]:
        thread = threading.Thread(target=start)
        thread.start()
        thread.join()
    else:
        start()


def maps_much_and_reads_what_is_shared(p):
    space = mmap.mmap(-1, 8_000_000_000)
    time.sleep(1.5)
    return len(ballast) + sum(ballast[::4096]) + space[0]


def leaves_a_process_behind(p):
    child = subprocess.Popen(["sleep", "1000"])
    if p["then"] == "raise":
        raise ValueError(child.pid)
    if p["then"] == "die":
        print(child.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return child.pid


def starts_a_process_and_waits(p):
    child = subprocess.Popen(["sleep", "1000"])
    with open(p["file"] + ".new", "w") as file:
        file.write(f"{os.getpid()} {child.pid}")
    os.rename(p["file"] + ".new", p["file"])
    time.sleep(60)


def kills_its_server(p):
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)


def multiplies_on_two_threads(p):
    import torch

    torch.set_num_threads(2)
    a = torch.ones(512, 512)
    return [int((a @ a)[0, 0]), len(os.listdir("/proc/self/task"))]
