"""What happens inside the guest? `python -m chaos.machine.inside SPEC.json`, as the only program that its init starts.

1. It sets up the disk: the image, behind dm-flakey where the spec wants one that fails or lies; ext4 on it.
2. It starts the broker with its data on that disk, makes the topics, starts the clients. Each client's history is a symbolic link to a console.
3. When the first record lies in a log, it says "load" and, at the times that the spec names, changes what the disk does. It never ends: the power is cut.

SPEC: {"target", "policy", "properties", "topics", "clients": {name: spec}, "consoles": {name: number}, "place", "mount",
"disk": [[seconds after "load", "error_writes" | "drop_writes" | "up"], ...], "netem": "delay 5ms loss 1%" or ""}.
"""

import glob
import json
import os
import subprocess
import sys
import time
import tty

DEVICE, FLAKEY = "/dev/ubda", "chaos"
MODULES = "/usr/lib/uml/modules"


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        say(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        sys.exit(1)
    return done.stdout


def load_module(name: str) -> None:
    """A module of this kernel, by its file: the guest's own module directory is not where the kernel looks."""
    found = glob.glob(f"{MODULES}/{os.uname().release}/kernel/**/{name}.ko*", recursive=True)
    run("insmod", *found[:1])


def table(feature: str) -> str:
    """dm-flakey, in one of its states for ever. `up` passes everything on; `drop_writes` says yes and forgets;
    `error_writes` says EIO."""
    sectors = int(run("blockdev", "--getsz", DEVICE))
    return f"0 {sectors} flakey {DEVICE} 0 " + ("100000 0" if feature == "up" else f"0 100000 1 {feature}")


def change_disk(feature: str) -> None:
    """At once, without a sync and without waiting for what is under way."""
    run("dmsetup", "suspend", "--noflush", "--nolockfs", FLAKEY)
    run("dmsetup", "load", FLAKEY, "--table", table(feature))
    run("dmsetup", "resume", "--noudevsync", FLAKEY)
    say(f"disk {feature} {time.monotonic_ns()}")


def mount(spec: dict) -> str:
    device, where = DEVICE, f"{spec['place']}/disk"
    os.makedirs(where)
    if spec["disk"]:
        for name in ("dm-mod", "dm-flakey"):
            load_module(name)
        run("dmsetup", "create", FLAKEY, "--noudevsync", "--table", table("up"))
        run("dmsetup", "mknodes")
        device = f"/dev/mapper/{FLAKEY}"
    run("mount", "-t", "ext4", "-o", spec["mount"], device, where)
    return where


def start_clients(spec: dict, bootstrap: str) -> list:
    history = f"{spec['place']}/history"
    os.makedirs(history)
    consoles, processes = [], []
    for name, client in spec["clients"].items():
        path = f"/dev/tty{spec['consoles'][name]}"
        consoles.append(os.open(path, os.O_WRONLY | os.O_NOCTTY))  # stays open, and so raw
        tty.setraw(consoles[-1])
        os.symlink(path, f"{history}/{name}.jsonl")
        client = {"bootstrap": bootstrap, "history": history, "name": name, **client}
        processes.append(subprocess.Popen([sys.executable, "-m", "chaos.process.client", json.dumps(client)], stdin=subprocess.DEVNULL))
    return processes


def wait_for_records(data: str, topics: dict) -> None:
    """Until a log of these topics holds something: clients take seconds to start here."""
    while not any(os.path.getsize(path) for topic in topics for path in glob.glob(f"{data}/{topic}-*/*.log")):
        time.sleep(0.02)


def main(path: str) -> None:
    from chaos.process import observe
    from chaos.targets import make_target, policy_of

    with open(path) as file:
        spec = json.load(file)
    where = mount(spec)
    say("up")
    target = make_target(spec["target"], f"{where}/broker", policy=policy_of(spec["policy"]), properties=spec["properties"])
    target.start()
    say("broker ready")
    observe.create_topics(target.bootstrap, spec["topics"], {})
    if spec["netem"]:
        load_module("sch_netem")
        run("tc", "qdisc", "add", "dev", "lo", "root", "netem", *spec["netem"].split())
    start_clients(spec, target.bootstrap)
    wait_for_records(target.data_directory, spec["topics"])
    say("load")
    began = time.monotonic()
    for seconds, feature in spec["disk"]:
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        change_disk(feature)
    say("waiting for the end")
    told = False
    while True:
        time.sleep(0.2)
        if not told and target.process.poll() is not None:
            told = True
            say(f"broker ended with {target.process.returncode}: {target.tail(2)}")


if __name__ == "__main__":
    main(sys.argv[1])
