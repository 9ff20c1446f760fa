"""Tries to get out of a FetchML sandbox, and says of each way whether it was open.

Runs as a task. Prints one line a probe: `held NAME: why it failed` or `ESCAPED NAME: what it got`, and at the end
`probed N`. Bait lies outside the sandbox; `bait.json` beside this file says where. Needs nothing but Python 3. Never run it
outside a sandbox without `only` in `bait.json`: it would restart the machine.
"""

import ctypes
import errno
import glob
import json
import os
import platform
import resource
import signal
import socket
import stat
import struct
import sys

BAIT = json.load(open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "bait.json")))
CONTAINER = BAIT.get("container", False)
NETWORK = BAIT["network"]
LIBC = ctypes.CDLL(None, use_errno=True)
PROBES = []
SPEAK = None  # Where a probe's result goes.


def probe(function):
    """Registers a way out: it returns what it got hold of, or raises when the way is shut."""
    PROBES.append((function.__name__, function))
    return function


def register(name, function):
    PROBES.append((name, function))


class Shut(Exception):
    """The way is shut, without an error of the system."""


def check(result, what=""):
    """Turns -1 of the C library into an exception."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


NUMBERS = {
    "x86_64": dict(
        mount=165, umount2=166, pivot_root=155, ptrace=101, process_vm_readv=310, setns=308, unshare=272, bpf=321,
        perf_event_open=298, init_module=175, kexec_load=246, reboot=169, swapon=167, settimeofday=164, iopl=172,
        open_by_handle_at=304, keyctl=250, userfaultfd=323, mknodat=259, quotactl=179, acct=163, syslog=103,
        sethostname=170, open_tree=428, fsopen=430, move_mount=429, pidfd_getfd=438, pidfd_open=434, clone3=435,
        process_vm_writev=311, kcmp=312, lookup_dcookie=212, nfsservctl=180,
    ),
    "aarch64": dict(
        mount=40, umount2=39, pivot_root=41, ptrace=117, process_vm_readv=270, setns=268, unshare=97, bpf=280,
        perf_event_open=241, init_module=105, kexec_load=104, reboot=142, swapon=224, settimeofday=170,
        open_by_handle_at=265, keyctl=219, userfaultfd=282, mknodat=33, quotactl=60, acct=89, syslog=116,
        sethostname=161, open_tree=428, fsopen=430, move_mount=429, pidfd_getfd=438, pidfd_open=434, clone3=435,
        process_vm_writev=271, kcmp=272,
    ),
}[platform.machine()]


def syscall(name, *arguments):
    if name not in NUMBERS:
        raise Shut("not on this machine")
    words = [a if isinstance(a, (bytes, type(None), ctypes.Array)) else ctypes.c_long(a) for a in arguments]
    return check(LIBC.syscall(ctypes.c_long(NUMBERS[name]), *words), name)


# Files of others.


def reads(path):
    def attempt():
        with open(path, "rb") as file:
            return "read %r" % file.read(64)

    return attempt


for what, path in BAIT["files"].items():
    register("read_" + what, reads(path))


mine = os.path.dirname(os.environ["FETCHML_OUTPUT_DIR"])


def lists(path):
    def attempt():
        # Where its own directories are mounted, the way to them is there, and nothing beside it.
        names = [name for name in os.listdir(path) if not mine.startswith(os.path.join(path, name))]
        if not names:
            raise Shut("nothing but the way to its own")
        return "listed %s" % names[:5]

    return attempt


for what, path in BAIT["directories"].items():
    if CONTAINER and what == "cgroups":
        continue  # Its own are shown there: see below.
    register("list_" + what, lists(path))


def writes(path):
    def attempt():
        # Never made anew: a path may lead into the task's own /tmp.
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"x")
        return "wrote to it"

    return attempt


for what, path in BAIT["files"].items():
    register("write_" + what, writes(path))

for path in ["/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/root/.bashrc", "/var/log/dpkg.log", "/proc/kcore"]:
    if CONTAINER and path in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/root/.bashrc", "/var/log/dpkg.log"):
        continue  # The image's own, which are no secret.
    register("read_" + path.strip("/").replace("/", "_"), reads(path))


def creates(path):
    def attempt():
        with open(os.path.join(path, "intruder"), "wb") as file:
            file.write(b"x")
        return "made a file"

    return attempt


for path in ["/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/dev", "/var", "/run", "/home", "/root", "/opt", "/boot", "/srv"]:
    register("create_in_" + (path.strip("/").replace("/", "_") or "top"), creates(path))


@probe
def hard_link_to_a_foreign_file():
    os.link(next(iter(BAIT["files"].values())), os.path.join(os.environ["FETCHML_OUTPUT_DIR"], "hard"))
    return "linked"


@probe
def symbolic_link_to_a_foreign_file():
    link = os.path.join(os.environ["FETCHML_OUTPUT_DIR"], "soft-probe")
    os.symlink(next(iter(BAIT["files"].values())), link)
    try:
        return "read %r" % open(link, "rb").read(64)
    finally:
        os.unlink(link)


@probe
def climbing_out_of_the_working_directory():
    here = os.environ["FETCHML_SNAPSHOT_DIR"]
    for depth in range(1, 12):
        above = os.path.normpath(os.path.join(here, *[".."] * depth))
        for name in ("worker.key", "identity.json", "spool", "fetchml.db", "admin.key"):
            if os.path.exists(os.path.join(above, name)):
                return "saw %s in %s" % (name, above)
    raise Shut("nothing of the worker's above")


@probe
def other_attempts():
    above = os.path.dirname(os.path.dirname(os.environ["FETCHML_OUTPUT_DIR"]))
    names = set(os.listdir(above)) - {os.environ["FETCHML_ATTEMPT_ID"]}
    if not names:
        raise Shut("only its own")
    return "saw %s" % sorted(names)[:3]


@probe
def records_of_its_own_attempt():
    own = os.path.dirname(os.environ["FETCHML_OUTPUT_DIR"])
    for name in ("exit.json", "shim.json", "stop.json", "assignment.json", "lock"):
        try:
            os.write(os.open(os.path.join(own, name), os.O_WRONLY | os.O_APPEND), b" ")
            return "wrote %s" % name
        except OSError as error:
            last = error
    raise last


@probe
def emptying_its_own_log():
    os.ftruncate(os.open("/proc/self/fd/1", os.O_WRONLY), 0)
    return "emptied the log"


@probe
def setuid_programs():
    status = open("/proc/self/status").read()
    if "NoNewPrivs:\t1" in status:
        raise Shut("no_new_privs")
    return "NoNewPrivs is off"


# Processes.


@probe
def capabilities():
    held = [line for line in open("/proc/self/status") if line.startswith(("CapEff", "CapPrm", "CapInh", "CapAmb"))]
    if all(int(line.split()[1], 16) == 0 for line in held):
        raise Shut("none")
    return "has %s" % "".join(held)


@probe
def becoming_root():
    inside, outside, _ = map(int, open("/proc/self/uid_map").readline().split())
    if os.getuid() == inside == 0 and outside != 0:
        raise Shut("root of a namespace in which it is user %d, without capabilities" % outside)
    os.setresuid(0, 0, 0)
    return "uid 0"


@probe
def changing_groups():
    os.setgroups([0])
    return "group 0"


@probe
def seeing_other_processes():
    agent = BAIT["agent_pid"]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = open("/proc/%s/cmdline" % pid, "rb").read()
        except OSError:
            continue
        if b"--data-dir" in command or b"--key-file" in command:
            return "sees the agent as %s (outside %s)" % (pid, agent)
    raise Shut("none but its own")


@probe
def environment_of_process_1():
    return "read %r" % open("/proc/1/environ", "rb").read(64)


@probe
def root_of_process_1():
    return "listed %s" % os.listdir("/proc/1/root")


@probe
def memory_of_process_1():
    with open("/proc/1/mem", "rb") as file:
        return "read %r" % file.read(1)


@probe
def open_files_of_process_1():
    for number in os.listdir("/proc/1/fd"):
        try:
            return "read %s" % os.readlink("/proc/1/fd/" + number)
        except OSError as error:
            last = error
    raise last


@probe
def attaching_to_process_1():
    PTRACE_ATTACH = 16
    syscall("ptrace", PTRACE_ATTACH, 1, 0, 0)
    return "traces process 1"


@probe
def reading_process_1_across():
    buffer = ctypes.create_string_buffer(8)
    iovec = struct.pack("PN", ctypes.addressof(buffer), 8)
    remote = struct.pack("PN", 0x400000, 8)
    check(syscall("process_vm_readv", 1, iovec, 1, remote, 1, 0))
    return "read process 1"


@probe
def killing_process_1():
    os.kill(1, signal.SIGKILL)
    # Within its own namespace process 1 takes no signal that it does not handle: being here is no escape
    # unless it is gone.
    if os.path.exists("/proc/1/status"):
        raise Shut("it lives on")
    return "killed process 1"


@probe
def overwriting_the_program_of_process_1():
    os.close(os.open("/proc/1/exe", os.O_WRONLY))
    return "opened the worker's binary for writing"


@probe
def taking_a_file_of_process_1():
    fd = syscall("pidfd_open", 1, 0)
    for number in range(16):
        try:
            syscall("pidfd_getfd", fd, number, 0)
            return "took file %d of process 1" % number
        except OSError as error:
            last = error
    raise last


@probe
def killing_the_agent():
    os.kill(BAIT["agent_pid"], 0)
    try:
        command = open("/proc/%d/cmdline" % BAIT["agent_pid"], "rb").read()
    except OSError:
        command = b""
    if b"--data-dir" not in command:
        raise Shut("that number is a process of its own here")
    return "may signal the agent"


@probe
def inherited_files():
    extra = []
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + number)
        except OSError:
            continue
        if int(number) > 2 and int(number) != SPEAK and not target.startswith("/proc/"):
            extra.append((number, target))
    if not extra:
        raise Shut("none but the standard three")
    return "has %s" % extra


@probe
def controlling_terminal():
    fd = os.open("/dev/tty", os.O_RDWR)
    os.close(fd)
    return "has a terminal to type into"


@probe
def protection_from_the_oom_killer():
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("-1000")
    return "the kernel will kill others first"


@probe
def more_priority():
    os.nice(-20)
    return "nice -20"


@probe
def real_time_scheduling():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
    return "FIFO 99"


@probe
def raising_hard_limits():
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == resource.RLIM_INFINITY:
        return "dumps of any size"
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard + (1 << 40)))
    except ValueError as error:
        raise Shut(error) from error
    return "raised"


# The kernel.


def mounts(*arguments):
    return lambda: "mounted (%s)" % syscall("mount", *arguments)


register("mount_tmpfs", mounts(b"none", b"/tmp", b"tmpfs", 0, None))
register("mount_proc", mounts(b"proc", b"/tmp", b"proc", 0, None))
register("mount_cgroup", mounts(b"none", b"/tmp", b"cgroup2", 0, None))
register("remount_root_writable", mounts(b"none", b"/", None, 0x20 | 0x1000, None))
for device in BAIT["block_devices"]:
    register("mount_" + device.strip("/").replace("/", "_"), mounts(device.encode(), b"/tmp", b"ext4", 0, None))
    register("read_" + device.strip("/").replace("/", "_"), reads(device))
for path in ["/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/loop-control", "/dev/net/tun", "/dev/port", "/dev/sda"]:
    register("open_" + path.strip("/").replace("/", "_"), reads(path))


def making_a_device(kind, major, minor):
    def attempt():
        path = os.path.join(os.environ["FETCHML_OUTPUT_DIR"], "device-probe")
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
        try:
            return "read %r" % open(path, "rb").read(16)
        finally:
            os.unlink(path)

    return attempt


register("make_a_block_device", making_a_device(stat.S_IFBLK, BAIT["root_device"][0], BAIT["root_device"][1]))
register("make_a_memory_device", making_a_device(stat.S_IFCHR, 1, 1))

NAMESPACES = dict(user=0x10000000, mount=0x20000, network=0x40000000, pid=0x20000000, cgroup=0x2000000)
for name, flag in NAMESPACES.items():
    register("unshare_" + name, lambda flag=flag: "made one (%s)" % syscall("unshare", flag))


@probe
def entering_namespaces_of_process_1():
    mine = {name: os.readlink("/proc/self/ns/" + name) for name in ("mnt", "net", "pid", "user")}
    for name, link in mine.items():
        fd = os.open("/proc/1/ns/" + name, os.O_RDONLY)
        if os.readlink("/proc/self/fd/%d" % fd) == link:
            continue
        syscall("setns", fd, 0)
        return "entered %s" % name
    raise Shut("they are its own")


@probe
def change_of_root():
    os.chroot("/tmp")
    return "chroot"


@probe
def pivot_of_root():
    return syscall("pivot_root", b"/tmp", b"/tmp")


@probe
def unmounting():
    return syscall("umount2", b"/proc", 2)


@probe
def detached_mounts():
    return "opened a tree (%s)" % syscall("open_tree", -100, b"/", 1)


@probe
def file_systems_by_handle():
    return "opened one (%s)" % syscall("fsopen", b"tmpfs", 0)


@probe
def files_by_handle():
    # The root directory of an ext4: inode 2.
    handle = struct.pack("IiII", 8, 1, 2, 0)
    return "opened (%s)" % syscall("open_by_handle_at", os.open("/usr", os.O_RDONLY), handle, 0)


@probe
def programs_for_the_kernel():
    attributes = ctypes.create_string_buffer(struct.pack("IIII", 2, 4, 4, 1), 128)
    return "made a map (%s)" % syscall("bpf", 0, attributes, 128)


@probe
def watching_all_processors():
    attributes = ctypes.create_string_buffer(struct.pack("IIQ", 0, 128, 0), 128)
    return "counts (%s)" % syscall("perf_event_open", attributes, -1, 0, -1, 0)


@probe
def loading_a_module():
    return syscall("init_module", b"\x7fELF", 4, b"")


@probe
def loading_a_kernel():
    return syscall("kexec_load", 0, 0, None, 0)


@probe
def restart_of_the_machine():
    return syscall("reboot", 0xFEE1DEAD, 672274793, 0x89ABCDEF, None)


@probe
def swap_on():
    return syscall("swapon", b"/tmp/none", 0)


@probe
def setting_the_clock():
    return syscall("settimeofday", struct.pack("ll", 1, 0), None)


@probe
def setting_the_host_name():
    return syscall("sethostname", b"owned", 5)


@probe
def kernel_messages():
    buffer = ctypes.create_string_buffer(64)
    if syscall("syslog", 3, buffer, 64) == 0:
        raise Shut("empty")
    return "read %r" % buffer.value[:40]


@probe
def process_accounting():
    return syscall("acct", b"/tmp/acct")


@probe
def input_output_ports():
    return syscall("iopl", 3)


for path in [
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/sys/kernel/uevent_helper",
    "/sys/power/state",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/memory/cgroup.procs",
    "/sys/fs/cgroup/devices/devices.allow",
]:
    register("write_" + path.strip("/").replace("/", "_"), lambda path=path: "wrote %d" % os.write(os.open(path, os.O_WRONLY), b"1"))


@probe
def control_groups_of_others():
    # Its own are shown to a container as the whole, and have none below them.
    version_2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    seen = glob.glob("/sys/fs/cgroup/*/" if version_2 else "/sys/fs/cgroup/*/*/")
    if not seen:
        raise Shut("none but its own")
    return "sees %s" % seen[:3]


@probe
def leaving_its_control_groups():
    for path in glob.glob("/sys/fs/cgroup/*/cgroup.procs") + glob.glob("/sys/fs/cgroup/cgroup.procs"):
        try:
            os.close(os.open(path, os.O_WRONLY))
            return "may write %s" % path
        except OSError:
            pass
    raise Shut("none can be written")


# The network and sockets.


@probe
def raw_packets():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)
    return "made one"


@probe
def raw_ip():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    return "made one"


@probe
def hosts_abstract_socket():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect("\0" + BAIT["abstract_socket"])
    return "connected"


@probe
def hosts_socket_file():
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.connect(BAIT["socket_file"])
    return "connected"


for path in ["/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock", "/run/dbus/system_bus_socket"]:

    def connect(path=path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.connect(path)
        return "connected"

    register("socket_" + path.strip("/").replace("/", "_").replace(".", "_"), connect)

if not NETWORK:

    def reaches(host, port):
        def attempt():
            with socket.create_connection((host, port), timeout=5):
                return "connected"

        return attempt

    register("reach_the_server", reaches(*BAIT["server"]))
    register("reach_the_metadata_address", reaches("169.254.169.254", 80))
    register("reach_the_internet", reaches("1.1.1.1", 443))
    register("reach_an_ipv6_address", reaches("2606:4700:4700::1111", 443))

    @probe
    def other_network_interfaces():
        names = [name for _, name in socket.if_nameindex() if name != "lo"]
        if not any(name for name in names if not name.startswith(("sit", "tunl", "ip6tnl", "gre", "erspan", "ip_vti", "ip6_vti", "ip6gre", "dummy"))):
            raise Shut("loopback only")
        return "has %s" % names

    @probe
    def asking_names():
        return "resolved %s" % socket.getaddrinfo("pypi.org", 443)[0][4][0]

    @probe
    def datagrams():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", ("1.1.1.1", 53))
        return "sent"


# What it was given.


@probe
def secrets_of_the_worker_in_the_environment():
    found = [name for name in os.environ if name in BAIT["forbidden_variables"]]
    if not found:
        raise Shut("none")
    return "has %s" % found


@probe
def keys_of_the_kernel():
    KEYCTL_SEARCH, SESSION = 10, -3
    return "found (%s)" % syscall("keyctl", KEYCTL_SEARCH, SESSION, b"user", BAIT["kernel_key"].encode(), 0)


def main():
    global SPEAK
    names = [name for name, _ in PROBES]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice, "two probes of one name: %s" % twice
    only = BAIT.get("only")
    chosen = [(name, attempt) for name, attempt in PROBES if only is None or name in only]
    for name, attempt in chosen:
        # In a process of its own: a way that works must not change the next one's surroundings.
        hear, speak = os.pipe()
        SPEAK = speak
        child = os.fork()
        if child == 0:
            os.close(hear)
            signal.alarm(20)
            try:
                line = "ESCAPED %s: %s" % (name, attempt())
            except Shut as reason:
                line = "held %s: %s" % (name, reason)
            except OSError as error:
                line = "held %s: %s" % (name, errno.errorcode.get(error.errno, error))
            except Exception as error:  # A mistake in the probe must not pass for a shut way.
                line = "BROKEN %s: %r" % (name, error)
            os.write(speak, line.encode("utf-8", "replace")[:500])
            os._exit(0)
        os.close(speak)
        line = b""
        while part := os.read(hear, 4096):
            line += part
        os.close(hear)
        _, status = os.waitpid(child, 0)
        if not line:
            line = b"held %s: ended by status %d" % (name.encode(), status)
        sys.stdout.write(line.decode("utf-8", "replace").replace("\n", " ") + "\n")
        sys.stdout.flush()
    print("probed %d" % len(chosen))


main()
