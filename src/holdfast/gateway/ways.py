"""The ways out of a sandbox that are all tried alike: system calls, kinds of sockets, files to read and to write.

They are data: the battery (`probes.py`), which runs inside, is told of them.
"""

from __future__ import annotations

# Numbers on x86_64 and aarch64 (None: it has no such call), and arguments that do nothing if the call is allowed.
CALLS: dict[str, tuple[int | None, int | None, tuple[int | str, ...]]] = {
    "new_user_namespace": (272, 97, (0x10000000,)), "new_network_namespace": (272, 97, (0x40000000,)),
    "new_mount_namespace": (272, 97, (0x20000,)), "new_time_namespace": (272, 97, (0x80,)),
    "clone_into_new_user_namespace": (56, 220, (0x10010000, 0, 0, 0, 0)),
    "clone3": (435, 435, (0, 0)), "enter_namespace": (308, 268, (-1, 0)),
    "mount": (165, 40, (0, "/tmp", 0, 4096, 0)), "unmount": (166, 39, ("/proc", 0)),
    "pivot_root": (155, 41, ("/", "/")), "chroot": (161, 51, ("/",)), "open_tree": (428, 428, (-1, "/", 1)),
    "open_tree_with_attributes": (467, 467, (-1, "/", 1, 0, 0)), "move_mount": (429, 429, (-1, "", -1, "", 0)),
    "open_file_system": (430, 430, ("tmpfs", 0)), "mount_attributes": (442, 442, (-1, "", 0, 0, 0)),
    "status_of_mounts": (457, 457, (0, 0, 0, 0)), "open_by_handle": (304, 265, (-1, 0, 0)),
    "watch_file_system": (300, 262, (0, 0)), "io_uring": (425, 425, (1, 0)),
    "io_uring_enter": (426, 426, (-1, 0, 0, 0, 0)),
    "userfaultfd": (323, 282, (1,)), "keyring": (250, 219, (0, -3, 0)), "add_key": (248, 217, (0, 0, 0, 0, -3)),
    "request_key": (249, 218, (0, 0, 0, 0)), "bpf": (321, 280, (0, 0, 0)),
    "performance_counters": (298, 241, (0, 0, -1, -1, 0)), "debug_another": (101, 117, (16, 4_000_000, 0, 0)),
    "be_debugged": (101, 117, (0, 0, 0, 0)), "read_memory_of_init": (310, 270, (1, 0, 0, 0, 0, 0)),
    "write_memory_of_init": (311, 271, (1, 0, 0, 0, 0, 0)), "take_descriptor_of_init": (438, 438, (-1, 0, 0)),
    "compare_with_init": (312, 272, (1, 1, 0, 0, 0)), "move_pages": (279, 239, (1, 0, 0, 0, 0, 0)),
    "anonymous_file": (319, 279, ("x", 0)), "secret_memory": (447, 447, (0,)),
    "shared_memory_that_stays": (29, 194, (0, 4096, 0o1600)), "message_queue": (68, 186, (0, 0o1600)),
    "load_module": (175, 105, (0, 0, 0)),
    "load_module_file": (313, 273, (-1, 0, 0)), "kexec": (246, 104, (0, 0, 0, -1)),
    "reboot": (169, 142, (0, 0, 0, 0)), "swap": (167, 224, ("/none", 0)), "kernel_log": (103, 116, (3, 0, 0)),
    "accounting": (163, 89, ("/none",)), "quota": (179, 60, (-1, 0, 0, 0)), "set_clock": (227, 112, (0, 0)),
    "tune_clock": (159, 171, (0,)), "name_host": (170, 161, ("agent", 5)), "io_ports": (172, None, (0,)),
    "local_descriptors": (154, None, (1, 0, 0)), "personality": (135, 92, (0x0400000,)),
    "lsm_attributes": (460, 460, (0, 0, 0, 0)), "call_of_the_future": (500, 500, ()),
    "call_of_x32": (0x40000000 + 39, None, ()),
}  # fmt: skip
SOCKETS: dict[str, tuple[int, int, int]] = {
    "netlink": (16, 3, 0), "packet": (17, 3, 0), "vsock": (40, 1, 0), "crypto": (38, 5, 0), "bluetooth": (31, 3, 1),
    "xdp": (44, 3, 0), "can": (29, 3, 1), "tipc": (30, 1, 0), "rds": (21, 5, 0), "kcm": (41, 2, 0), "smc": (43, 1, 0),
    "raw_ip": (2, 3, 1), "raw_ipv6": (10, 3, 58), "ping": (2, 2, 1), "sctp": (2, 1, 132), "multipath_tcp": (2, 1, 262),
    "udp_lite": (2, 2, 136), "qualcomm": (42, 2, 0),
}  # fmt: skip

FILES = {
    "shadow": "/etc/shadow", "machine_id": "/etc/machine-id", "ssh_keys": "/etc/ssh",
    "private_keys": "/etc/ssl/private",
    "home_of_root": "/root", "homes": "/home", "sockets_of_services": "/run", "variable_files": "/var",
    "sys": "/sys",
    "kernel_memory": "/proc/kcore", "kernel_messages": "/proc/kmsg", "device_memory": "/dev/mem", "kvm": "/dev/kvm",
    "fuse": "/dev/fuse", "device_vsock": "/dev/vsock", "device_userfaultfd": "/dev/userfaultfd", "disk": "/dev/vda",
    "loop_device": "/dev/loop-control", "tunnel": "/dev/net/tun", "kernel_log_device": "/dev/kmsg",
}  # fmt: skip

WRITES = {
    "core_pattern": "/proc/sys/kernel/core_pattern",
    "sysrq": "/proc/sysrq-trigger", "sysctl": "/proc/sys/vm/drop_caches",
    "namespaces_allowed": "/proc/sys/user/max_user_namespaces", "loader": "/etc/ld.so.preload", "passwd": "/etc/passwd",
    "system": "/usr/bin/holdfast-probe", "root": "/holdfast-probe", "dev": "/dev/holdfast-probe",
    "out_of_memory_score": "/proc/self/oom_score_adj", "id_map": "/proc/self/uid_map",
}  # fmt: skip

NOWHERE = ("192.0.2.1", "169.254.169.254", "10.0.0.1")  # nobody, where clouds keep their credentials, a private network
