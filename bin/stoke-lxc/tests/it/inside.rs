//! What the process of a container sees: each field of the configuration does what it says.

use serde_json::json;

use crate::world::World;

#[test]
fn identity_is_as_configured() {
    let world = World::new(
        "id -u; id -g; id -G; umask; grep -E '^Cap' /proc/self/status | tr -d '\\t'; cat /proc/self/oom_score_adj; pwd",
    )
    .with("/process/user", json!({"uid": 1234, "gid": 55, "umask": 63, "additionalGids": [7, 8]}))
    .with(
        "/process/capabilities",
        json!({
            "bounding": ["CAP_KILL", "CAP_NET_RAW"], "permitted": ["CAP_KILL"], "effective": ["CAP_KILL"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        }),
    )
    .with("/process/oomScoreAdj", json!(500))
    .with("/process/cwd", json!("/tmp"));
    std::os::unix::fs::symlink("busybox", world.rootfs().join("bin/tr")).unwrap();
    let kill = "0000000000000020";
    let expected = format!(
        "1234\n55\n55 7 8\n0077\nCapInh:{kill}\nCapPrm:{kill}\nCapEff:{kill}\nCapBnd:0000000000002020\nCapAmb:{kill}\n500\n/tmp\n"
    );
    assert_eq!(world.run(), expected);
}

#[test]
fn no_capabilities_are_none_and_unknown_ones_are_left_out() {
    let world = World::new("grep -E '^Cap(Prm|Bnd)' /proc/self/status");
    let world = world.with("/process/capabilities", json!(null));
    assert_eq!(world.run(), "CapPrm:\t0000000000000000\nCapBnd:\t0000000000000000\n");
    let world = World::new("true").with("/process/capabilities", json!({"bounding": ["CAP_OF_THE_FUTURE"]}));
    world.run();
}

#[test]
fn limits_and_no_new_privileges() {
    let world = World::new("ulimit -n; ulimit -Hn; ulimit -c; grep NoNewPrivs /proc/self/status")
        .with(
            "/process/rlimits",
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ]),
        )
        .with("/process/noNewPrivileges", json!(true));
    assert_eq!(world.run(), "100\n200\n0\nNoNewPrivs:\t1\n");
}

#[test]
fn the_environment_is_only_the_configured_one() {
    let world = World::new("env | sort").with("/process/env", json!(["PATH=/bin", "A=1", "A=2"]));
    assert_eq!(world.run(), "A=2\nHOME=/\nPATH=/bin\nPWD=/\nSHLVL=1\n");
}

#[test]
fn names_of_the_host() {
    let world = World::new("hostname; cat /proc/sys/kernel/domainname")
        .with("/hostname", json!("ship"))
        .with("/domainname", json!("sea"));
    assert_eq!(world.run(), "ship\nsea\n");
}

#[test]
fn no_descriptor_leaks_in() {
    let world = World::new("ls /proc/$$/fd; true");
    assert_eq!(world.run(), "0\n1\n2\n");
}

#[test]
fn descriptors_of_the_caller_are_kept_if_asked_for() {
    use std::os::fd::AsRawFd as _;
    let world = World::new("cat <&3");
    std::fs::write(world.path("kept"), "kept").unwrap();
    let file = std::fs::File::open(world.path("kept")).unwrap();
    let mut command = std::process::Command::new("sh");
    let program = world.command(&["run", "--preserve-fds", "1", &world.id]);
    let line: Vec<_> =
        std::iter::once(program.get_program()).chain(program.get_args()).map(|word| word.to_str().unwrap()).collect();
    command.arg("-c").arg(format!("exec {} 3< /proc/{}/fd/{}", line.join(" "), std::process::id(), file.as_raw_fd()));
    let output = command.current_dir(world.bundle()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "kept", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn devices_have_their_numbers_modes_and_owners() {
    let world = World::new(
        "stat -c '%n %F %a %u:%g %t:%T' /dev/null /dev/own /dev/deep/pipe; readlink /dev/fd; readlink /dev/ptmx",
    )
    .with(
        "/linux/devices",
        json!([
            {"path": "/dev/own", "type": "c", "major": 1, "minor": 5, "fileMode": 432, "uid": 5, "gid": 6},
            {"path": "/dev/deep/pipe", "type": "p", "fileMode": 384},
        ]),
    );
    let expected = "/dev/null character special file 666 0:0 1:3\n/dev/own character special file 660 5:6 1:5\n/dev/deep/pipe fifo 600 0:0 0:0\n/proc/self/fd\npts/ptmx\n";
    assert_eq!(world.run(), expected);
}

#[test]
fn mounts_have_their_options() {
    let world = World::new("grep -E ' /(a|b|c|d) ' /proc/self/mountinfo | awk '{print $5, $6, $7 == \"-\" ? \"\" : $7}' | sort; cat /b/x; ls /d")
        .with("/mounts/-", json!({"destination": "/a", "type": "tmpfs", "source": "t", "options": ["nosuid", "noexec", "size=64k"]}))
        .with("/mounts/-", json!({"destination": "/b", "source": "../shared", "options": ["rbind", "ro", "nodev"]}))
        .with("/mounts/-", json!({"destination": "/c", "source": "../shared", "options": ["bind", "rshared"]}))
        .with("/mounts/-", json!({"destination": "/d", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}));
    std::fs::create_dir(world.path("shared")).unwrap();
    std::fs::write(world.path("shared/x"), "of the host\n").unwrap();
    std::fs::create_dir(world.rootfs().join("d")).unwrap();
    std::fs::write(world.rootfs().join("d/copied"), "").unwrap();
    let printed = world.run();
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0].trim(), "/a rw,nosuid,noexec,relatime");
    assert_eq!(lines[1].trim(), "/b ro,nodev,relatime");
    assert!(lines[2].starts_with("/c rw,relatime shared:"), "{printed}");
    assert_eq!(&lines[4..], ["of the host", "copied"]);
}

#[test]
fn a_mount_never_leaves_the_root() {
    let world = World::new("ls /etc/inside/dir; test -L /link && echo still a link")
        .with("/mounts/-", json!({"destination": "/link/dir", "type": "tmpfs", "source": "t"}));
    // As an image could have it: a link to the host's folder.
    std::os::unix::fs::symlink("/etc/inside", world.rootfs().join("link")).unwrap();
    assert_eq!(world.run(), "still a link\n");
    assert!(world.rootfs().join("etc/inside/dir").is_dir());
    assert!(!std::path::Path::new("/etc/inside").exists());
}

#[test]
fn masked_and_read_only_paths() {
    let world = World::new("cat /secret; ls /hidden; echo x > /fixed/f || echo fixed; cat /fixed/f")
        .with("/linux/maskedPaths", json!(["/secret", "/hidden", "/not-there"]))
        .with("/linux/readonlyPaths", json!(["/fixed", "/not-there"]));
    for (file, text) in [("secret", "secret"), ("hidden/x", ""), ("fixed/f", "old")] {
        let path = world.rootfs().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let output = world.call(&["run", &world.id]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "fixed\nold");
}

#[test]
fn a_read_only_root_can_have_mounts_that_are_not() {
    let world = World::new("touch /x || echo read-only; touch /new/x && echo writable")
        .with("/root/readonly", json!(true))
        .with("/mounts/-", json!({"destination": "/new", "type": "tmpfs", "source": "t"}));
    let output = world.call(&["run", &world.id]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "read-only\nwritable\n");
}

#[test]
fn kernel_parameters_are_the_containers_own() {
    let world = World::new("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax")
        .with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4096"}));
    assert_eq!(world.run(), "1\n4096\n");
}

#[test]
fn a_filter_denies_what_it_denies_and_only_that() {
    let world = World::new("mkdir /tmp/x 2>&1; echo ok; grep Seccomp: /proc/self/status").with(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
        }),
    );
    assert_eq!(world.run(), "mkdir: can't create directory '/tmp/x': No space left on device\nok\nSeccomp:\t2\n");
}

#[test]
fn a_filter_of_the_usual_kind_forbids_none_of_our_own_steps() {
    // As the tests of the specification have it: what is not in a list of 2018 is denied, before privileges are dropped.
    let names = [
        "access",
        "arch_prctl",
        "brk",
        "capget",
        "capset",
        "chdir",
        "close",
        "dup2",
        "execve",
        "exit",
        "exit_group",
        "fcntl",
        "fstat",
        "futex",
        "getcwd",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getrandom",
        "getuid",
        "ioctl",
        "lseek",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
        "newfstatat",
        "open",
        "openat",
        "pipe2",
        "poll",
        "prctl",
        "pread64",
        "prlimit64",
        "read",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "set_robust_list",
        "set_tid_address",
        "setgid",
        "setgroups",
        "setresgid",
        "setresuid",
        "setuid",
        "stat",
        "statx",
        "uname",
        "write",
        "writev",
        "sendmsg",
        "recvmsg",
    ];
    let world = World::new("echo runs").with(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": names.as_slice(), "action": "SCMP_ACT_ALLOW"}],
        }),
    );
    assert_eq!(world.run(), "runs\n");
}

#[test]
fn personality_and_scheduling() {
    let world = World::new("cat /proc/self/personality; awk '{print $19}' /proc/self/stat")
        .with("/linux/personality", json!({"domain": "LINUX32"}))
        .with("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 7}))
        .with("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}));
    assert_eq!(world.run(), "00000008\n7\n");
}

#[test]
fn a_terminal_is_the_processes_own_and_the_caller_gets_the_other_side() {
    let world =
        World::new("tty; stat -c %F /dev/console; echo typed $(head -n 1)").with("/process/terminal", json!(true));
    let path = world.path("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    world.ok(&["create", "--console-socket", path.to_str().unwrap(), &world.id]);
    let (socket, _) = listener.accept().unwrap();
    let mut master = std::fs::File::from(stoke_runtime::wire::Link::new(socket.into()).receive_descriptor().unwrap());
    world.ok(&["start", &world.id]);
    std::io::Write::write_all(&mut master, b"hello\n").unwrap();
    let mut text = Vec::new();
    // The kernel says EIO when the last process has closed it.
    let _ended = std::io::Read::read_to_end(&mut master, &mut text);
    let text = String::from_utf8_lossy(&text).replace("\r\n", "\n");
    assert!(text.contains("/dev/pts/0\ncharacter special file\n") && text.contains("typed hello\n"), "{text}");
}
