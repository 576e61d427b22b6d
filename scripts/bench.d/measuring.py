"""What the benchmarks of scripts/ measure with: processes, servers, a slow link.

What is measured:
  wall       from the start of the first process to the end of the last
  CPU        user and system time of the whole process tree, the server left out
  server     CPU of the server's own processes during the command
  others     CPU of everything else on the machine meanwhile: above a tenth of the
             wall time the row is disturbed
  peak       the most resident memory of one process (VmHWM), each named
"""

import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import threading
import time

MIB = 1 << 20
GIB = 1 << 30
LINK_BYTES_PER_SECOND = 64 * MIB
# Read faster than anything here changes, seldom enough to cost nothing.
SAMPLE_SECONDS = 0.02


def say(text):
    print(text, file=sys.stderr, flush=True)


class Relay:
    """A port that passes on to another what a link of half of 1 Gbit/s Ethernet lets through."""

    def __init__(self, target):
        self.port = free_port()
        self.process = subprocess.Popen([sys.executable, "-c", RELAY, str(self.port), str(target),
                                         str(LINK_BYTES_PER_SECOND)])

    def cpu(self):
        return process_cpu(self.process.pid)

    def close(self):
        self.process.kill()
        self.process.wait()


RELAY = r"""
import socket, sys, threading, time
listen, target, rate = map(int, sys.argv[1:])
def pump(source, sink, paced):
    buffer = memoryview(bytearray(256 * 1024))
    due = time.monotonic()
    while True:
        try:
            n = source.recv_into(buffer)
            if not n:
                break
            sink.sendall(buffer[:n])
        except OSError:
            break
        if paced:
            # Credit of at most 10 ms is carried over, as in a switch's buffer.
            now = time.monotonic()
            due = max(due, now - 0.01) + n / rate
            if due > now:
                time.sleep(due - now)
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
server = socket.create_server(("127.0.0.1", listen))
while True:
    client, _ = server.accept()
    upstream = socket.create_connection(("127.0.0.1", target))
    for end in (client, upstream):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    threading.Thread(target=pump, args=(upstream, client, True), daemon=True).start()
    threading.Thread(target=pump, args=(client, upstream, False), daemon=True).start()
"""


def free_port():
    while True:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", random.randrange(20000, 32000)))
            except OSError:
                continue
            return s.getsockname()[1]


def busy():
    """CPU seconds that the whole machine spent on anything, since it started."""
    fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = (int(f) for f in fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(seconds):
    """Returns once one second passed in which the machine did next to nothing, or after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = busy()
        time.sleep(1)
        if busy() - before < 0.1:
            return


def stat_fields(pid):
    """The fields of /proc/PID/stat from the third on: the name before may hold anything."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def process_cpu(pid):
    """CPU seconds of one running process."""
    return sum(int(f) for f in stat_fields(pid)[11:13]) / os.sysconf("SC_CLK_TCK")


def descendants(pid):
    found, look = [], [pid]
    while look:
        parent = look.pop()
        try:
            tasks = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for task in tasks:
            try:
                children = pathlib.Path(f"/proc/{parent}/task/{task}/children").read_text().split()
            except OSError:
                continue
            found += map(int, children)
            look += map(int, children)
    return found


class Peaks(threading.Thread):
    """Watches VmHWM, the high-water mark of resident memory, of processes and their descendants."""

    def __init__(self):
        super().__init__(daemon=True)
        self.pids, self.peaks, self.done = [], {}, threading.Event()

    def run(self):
        while not self.done.wait(SAMPLE_SECONDS):
            for pid in list(self.pids):
                for one in [pid, *descendants(pid)]:
                    self.sample(one)

    def sample(self, pid):
        try:
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return
        name = re.search(r"^Name:\s*(.*)$", status, re.M)
        peak = re.search(r"^VmHWM:\s*(\d+) kB", status, re.M)
        # Between fork and exec a child still is this program.
        if name and peak and not name[1].startswith("python"):
            self.peaks[name[1]] = max(self.peaks.get(name[1], 0), int(peak[1]) * 1024)


def tree_cpu(pid):
    """CPU seconds of a process, its running descendants, and its children that have ended."""
    ticks = 0
    for one in [pid, *descendants(pid)]:
        fields = stat_fields(one)
        if fields:
            ticks += sum(int(f) for f in fields[11:15 if one == pid else 13])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(server, stages, stdin=None, stdout=os.devnull, env=None):
    """Runs a pipe and gives its wall time, CPU, the server's CPU and the peak of each program.

    `server` has cpu() and a relay or None; None stands for no server.
    """
    relay_of = getattr(server, "relay", None)
    relay_cpu = relay_of.cpu if relay_of else lambda: 0
    server_cpu = server.cpu if server else lambda: 0
    subprocess.run(["sync"], check=True)
    served, peaks = server_cpu(), Peaks()
    relay, own, machine = relay_cpu(), time.process_time(), busy()
    peaks.start()
    began = time.monotonic()
    processes, upstream = [], open(stdin or os.devnull, "rb")
    for at, argv in enumerate(stages):
        last = at == len(stages) - 1
        sink = open(stdout, "wb") if last else subprocess.PIPE
        process = subprocess.Popen([str(a) for a in argv], stdin=upstream, stdout=sink, stderr=subprocess.PIPE,
                                   env={**os.environ, **(env or {})})
        upstream.close()
        if last:
            sink.close()
        else:
            upstream = process.stdout
        processes.append(process)
        peaks.pids.append(process.pid)
    said = {}
    readers = [threading.Thread(target=lambda p=p: said.update({p.pid: p.stderr.read()})) for p in processes]
    for reader in readers:
        reader.start()
    cpu, failed = [], None
    for process, argv in zip(processes, stages):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        cpu.append(usage.ru_utime + usage.ru_stime)
        if process.returncode:
            failed = failed or (argv, process)
    wall = time.monotonic() - began
    relay, own, machine = relay_cpu() - relay, time.process_time() - own, busy() - machine
    peaks.done.set()
    peaks.join()
    for reader in readers:
        reader.join()
    if failed:
        argv, process = failed
        sys.exit(f"{' '.join(map(str, argv))}: status {process.returncode}\n{said[process.pid].decode()}")
    # A session's end and its accounting by the postmaster follow the client's end by a moment.
    time.sleep(0.3)
    served = server_cpu() - served
    others = max(0, machine - sum(cpu) - served - relay - own)
    return {"wall": wall, "cpu": sum(cpu), "stages": cpu, "server": served, "others": others, "peaks": peaks.peaks}
