//! Whose pod a process is in, by the text of `/proc/PID/cgroup` (cgroups(7)).
//!
//! The kubelet makes a group for each pod, whose name ends in `pod` and the pod's uid, by itself (`cgroupfs`) or as a slice
//! of systemd, which writes `_` for `-`:
//!
//! ```text
//! 0::/kubepods/burstable/pod8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d11/0123…
//! 0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8b8f3a50_2f61_4bb4_9d3a_0f3a5f0c3d11.slice/cri-containerd-0123….scope
//! ```
//!
//! The outermost such name of a line counts: what is below is made by whoever is in the pod. With version 1 there is a line
//! for each hierarchy; lines that name a pod must name the same one.

/// The uid of the pod; `None` if the process is in none, or in several at once.
pub fn pod(text: &str) -> Option<String> {
    let mut pods = text.lines().filter_map(of_line);
    let first = pods.next()?;
    pods.all(|pod| pod == first).then_some(first)
}

/// `ID:CONTROLLERS:PATH`; a path may have colons.
fn of_line(line: &str) -> Option<String> {
    let path = line.splitn(3, ':').nth(2)?;
    // A runtime that leaves slices to systemd may write `SLICE:PREFIX:CONTAINER`.
    path.split(['/', ':']).find_map(of_name)
}

fn of_name(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.rsplit_once("-pod") {
        Some((parent, uid)) if parent.ends_with("kubepods") || parent.contains("kubepods-") => uid,
        Some(_) => return None,
        None => name.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    is_uid(&uid).then_some(uid)
}

/// Those of the API server are UUIDs; those that a kubelet makes for its own pods are hashes of 32 digits.
fn is_uid(text: &str) -> bool {
    let digits = text.bytes().filter(|byte| *byte != b'-');
    let hexadecimal = digits.clone().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    hexadecimal && digits.count() == 32 && (text.len() == 32 || is_grouped(text))
}

fn is_grouped(text: &str) -> bool {
    text.split('-').map(str::len).eq([8, 4, 4, 4, 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d11";
    const CONTAINER: &str = "4ee7a1fdd1ee6e0b6cd0bd1c1bb7a4d0a3a4c49c6b4dc2c1f3c1f2b9c5d6e7f8";

    #[test]
    fn pods_are_found_in_all_forms() {
        let slice = UID.replace('-', "_");
        let texts = [
            ("v2, cgroupfs", format!("0::/kubepods/burstable/pod{UID}/{CONTAINER}\n")),
            ("v2, guaranteed", format!("0::/kubepods/pod{UID}/{CONTAINER}\n")),
            (
                "v2, systemd",
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{CONTAINER}.scope\n"
                ),
            ),
            (
                "v2, systemd, guaranteed, cri-o",
                format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-{CONTAINER}.scope/container\n"),
            ),
            (
                "v2, seen from another pod's cgroup namespace",
                format!("0::/../../kubepods-besteffort-pod{slice}.slice/cri-containerd-{CONTAINER}.scope\n"),
            ),
            ("v2, cgroupfs, from a namespace", format!("0::/../../pod{UID}/{CONTAINER}\n")),
            (
                "v1, cgroupfs",
                format!(
                    "11:memory:/kubepods/besteffort/pod{UID}/{CONTAINER}\n10:cpu,cpuacct:/kubepods/besteffort/pod{UID}/{CONTAINER}\n1:name=systemd:/kubepods/besteffort/pod{UID}/{CONTAINER}\n"
                ),
            ),
            (
                "v1, systemd",
                format!(
                    "12:pids:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/cri-containerd-{CONTAINER}.scope\n1:name=systemd:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{slice}.slice/cri-containerd-{CONTAINER}.scope\n"
                ),
            ),
            (
                "v1, slices left to systemd",
                format!(
                    "9:devices:/system.slice/containerd.service/kubepods-burstable-pod{slice}.slice:cri-containerd:{CONTAINER}\n"
                ),
            ),
            (
                "hybrid, with an own root of the kubelet",
                format!(
                    "9:name=systemd:/\n8:pids:/node-1/kubepods/burstable/pod{UID}/{CONTAINER}\n4:memory:/node-1/kubepods/burstable/pod{UID}/{CONTAINER}\n0::/\n"
                ),
            ),
            (
                "a node in a container",
                format!("0::/docker/{CONTAINER}/kubelet/kubepods/burstable/pod{UID}/{CONTAINER}\n"),
            ),
            (
                "the same with systemd",
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{slice}.slice/cri-containerd-{CONTAINER}.scope\n"
                ),
            ),
            (
                "a cluster in a pod: the pod is the outer one",
                format!(
                    "0::/kubepods/pod{UID}/{CONTAINER}/kubepods/pod00000000-0000-0000-0000-000000000001/{CONTAINER}\n"
                ),
            ),
        ];
        for (what, text) in texts {
            assert_eq!(pod(&text).as_deref(), Some(UID), "{what}: {text}");
        }
        let own = "0::/kubepods/burstable/pod0123456789abcdef0123456789abcdef/x\n";
        assert_eq!(pod(own).as_deref(), Some("0123456789abcdef0123456789abcdef"), "a kubelet's own pod");
    }

    #[test]
    fn what_is_no_pod_is_none() {
        let two = format!("2:cpu:/kubepods/pod{UID}/a\n1:memory:/kubepods/pod{}/a\n", UID.replace('8', "9"));
        for text in [
            "",
            "0::/\n",
            "nonsense",
            "0::/system.slice/ssh.service\n",
            "0::/user.slice/user-1000.slice/podman-1234.scope\n",
            "0::/machine.slice/libpod-0123456789abcdef0123456789abcdef.scope\n",
            "0::/kubepods/podnonsense/x\n",
            "0::/kubepods/pod8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d1/x\n",
            "0::/my-pod8b8f3a50-2f61-4bb4-9d3a-0f3a5f0c3d11/x\n",
            two.as_str(),
        ] {
            assert_eq!(pod(text), None, "{text}");
        }
    }
}
