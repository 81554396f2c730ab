//! The one script in which a node does what LTSP did by scripts of its own.
//!
//! It runs in the node's new root, before its system starts and after all typed configuration is there, by the image's
//! `/bin/sh`. The order is LTSP's: the network's variables, those of the configuration, `INIT_COMMAND_`, what LTSP's own
//! scripts did, `PREINIT_` last with all of it in its environment. A command that fails does not stop the ones after it.

use std::fmt::Write as _;

use super::expand::quoted;
use super::translate::{Generation, Value};

/// What the script does; keys name variables whose values it uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// Variables that are set, in order.
    pub(crate) variables: Vec<Value>,
    /// Sections of `ltsp.conf` as a shell has them: they set the variables again, by what only the node knows.
    pub(crate) own_code: Option<String>,
    pub(crate) init_commands: Vec<String>,
    pub(crate) before_init: Vec<String>,
    pub(crate) fstab: Vec<String>,
    pub(crate) hosts: Vec<String>,
    pub(crate) crontab: Vec<String>,
    pub(crate) modules: Vec<String>,
    pub(crate) services: Vec<String>,
    pub(crate) kept: Vec<String>,
    pub(crate) tasks: Vec<Task>,
    pub(crate) rc_lines: Vec<String>,
    pub(crate) preinit: Vec<String>,
    pub(crate) after_init: Vec<String>,
}

/// What LTSP's own scripts do beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// A host name that only a shell can tell.
    Hostname,
    /// The same of a time zone.
    Timezone,
    /// The image's own lines in fstab stay.
    KeepFstab,
    /// A folder's content goes over the root.
    Overlay,
    /// Services are removed where memory is short.
    RemoveLowRam,
    /// All swap areas of local disks are used.
    LocalSwap,
}

impl Program {
    fn does(&self, task: Task) -> bool {
        self.tasks.contains(&task)
    }

    fn has_work(&self) -> bool {
        let lists = [
            &self.init_commands,
            &self.before_init,
            &self.fstab,
            &self.hosts,
            &self.crontab,
            &self.modules,
            &self.services,
            &self.rc_lines,
            &self.preinit,
            &self.after_init,
        ];
        self.own_code.is_some() || lists.iter().any(|list| !list.is_empty()) || !self.tasks.is_empty()
    }
}

/// What LTSP's shell knows, in words of this project: paths that its scripts expect are there (`/rofs`), and the variables
/// of the network that the node has written down.
const BEGINNING: &str = r#"#!/bin/sh
# What the configuration of LTSP wants of this node; made by its farm.
for ltsp_file in /run/ltsp/*.conf; do
    [ -r "$ltsp_file" ] && . "$ltsp_file"
done
"#;

/// Functions that people's code calls, since LTSP has them.
const FUNCTIONS: &str = r#"warn() { echo "$*" >&2; }
debug() { :; }
die() { warn "$@"; exit 1; }
re() { "$@" || die "this failed: $*"; }
rw() { "$@" || warn "this failed: $*"; }
rwr() { "$@" || warn "this failed: $*"; }
rb() { "$@"; }
is_command() { command -v "$1" >/dev/null 2>&1; }
"#;

const REMOVE: &str = r#"ltsp_remove() {
    for ltsp_service in "$@"; do
        case " $LTSP_KEPT " in *" ${ltsp_service%.service} "*) continue ;; esac
        case "$ltsp_service" in *.*) ;; *) ltsp_service="$ltsp_service.service" ;; esac
        ln -sf /dev/null "/etc/systemd/system/$ltsp_service"
    done
}
"#;

/// rc.local stops at the first line that fails: that is what `-e` is for.
const RC_BEGINS: &str = r"{
    if [ -f /etc/rc.local ]; then sed '/^exit 0/d' /etc/rc.local; else echo '#!/bin/sh -e'; fi
";

/// In rc.local, before lines that join a cluster. Where the farm says so ([`stoke_api::objects::JoinSpec`]) the kubelet has what it
/// needs, with a token of this boot, and joins without kubeadm, which would find its files there and give up: such a line then
/// waits for that, about as long as kubeadm would, and until the cluster knows the node if somebody can ask: lines behind it may
/// give it labels.
const KUBEADM: &str = r#"kubeadm() {
    if [ "$1" != join ] || [ ! -f /etc/kubernetes/bootstrap-kubelet.conf ]; then
        command kubeadm "$@"
        return
    fi
    ltsp_left=300
    until [ -f /etc/kubernetes/kubelet.conf ] && { ! command -v kubectl >/dev/null ||
        kubectl --kubeconfig /etc/kubernetes/kubelet.conf get node "$(hostname)" >/dev/null 2>&1; }; do
        ltsp_left=$((ltsp_left - 1))
        [ "$ltsp_left" -gt 0 ] || { echo "the kubelet has not joined: journalctl -u kubelet" >&2; return 1; }
        sleep 1
    done
}
"#;

/// systemd has the unit that runs it, and a generator that starts the unit if there is such a file; images may do without.
const RC_ENDS: &str = r#"    echo 'exit 0'
} >/etc/rc.local.ltsp
mv /etc/rc.local.ltsp /etc/rc.local
chmod 755 /etc/rc.local
for ltsp_unit in /etc/systemd/system/rc-local.service /usr/lib/systemd/system/rc-local.service /lib/systemd/system/rc-local.service; do
    if [ -f "$ltsp_unit" ]; then
        mkdir -p /etc/systemd/system/multi-user.target.wants
        ln -sf "$ltsp_unit" /etc/systemd/system/multi-user.target.wants/rc-local.service
        break
    fi
done
"#;

/// The script; `None` if there is nothing for it to do.
pub(crate) fn render(program: &Program, generation: Generation) -> Option<String> {
    if !program.has_work() {
        return None;
    }
    let mut script = BEGINNING.to_owned();
    program.variables.iter().for_each(|value| variable(&mut script, value));
    if let Some(code) = &program.own_code {
        script.push_str(FUNCTIONS);
        script.push_str(code);
    }
    evaluated(&mut script, &program.before_init);
    if !program.init_commands.is_empty() {
        script.push_str("set -a\n");
        evaluated(&mut script, &program.init_commands);
        script.push_str("set +a\n");
    }
    fields(&mut script, program, generation);
    services(&mut script, program);
    system(&mut script, program);
    if !program.preinit.is_empty() {
        script.push_str("sh -c \"");
        let lines: Vec<_> = program.preinit.iter().map(|key| format!("${key}")).collect();
        script.push_str(&lines.join("\n"));
        script.push_str("\"\n");
    }
    evaluated(&mut script, &program.after_init);
    script.push_str("exit 0\n");
    Some(script)
}

/// A variable: what is known is written as it is, the rest is left to the shell.
fn variable(script: &mut String, value: &Value) {
    let key = &value.assignment.key;
    let _ = match &value.text {
        Some(text) => writeln!(script, "export {key}={}", quoted(text)),
        None => writeln!(script, "export {key}=\"{}\"", in_double_quotes(&value.assignment.value)),
    };
}

/// A value that goes into double quotes: none of its own ends them.
fn in_double_quotes(value: &str) -> String {
    let mut safe = String::with_capacity(value.len());
    let mut escaped = false;
    for c in value.chars() {
        if c == '"' && !escaped && !in_command(&safe) {
            safe.push('\\');
        }
        escaped = c == '\\' && !escaped;
        safe.push(c);
    }
    if escaped {
        safe.push('\\');
    }
    safe
}

/// Whether the text ends inside of `$(…)`, where quotes are those of another command.
fn in_command(text: &str) -> bool {
    text.matches("$(").count() > text.matches(')').count()
}

/// Runs values as LTSP does: in this shell, so that they can change its variables.
fn evaluated(script: &mut String, keys: &[String]) {
    for key in keys {
        let _ = writeln!(script, "eval \"${key}\"");
    }
}

/// What a field of the configuration would have said, had its value been known before.
fn fields(script: &mut String, program: &Program, generation: Generation) {
    let crontab = match generation {
        Generation::Five => "/var/spool/cron/crontabs/root",
        Generation::Later => "/etc/cron.d/ltsp",
    };
    let lists = [
        (&program.fstab, "/etc/fstab"),
        (&program.hosts, "/etc/hosts"),
        (&program.crontab, crontab),
        (&program.modules, "/etc/modules-load.d/ltsp.conf"),
    ];
    for (keys, file) in lists {
        for key in keys {
            let _ = writeln!(
                script,
                "[ -z \"${key}\" ] || {{ mkdir -p {}; printf '%s\\n' \"${key}\" >>{file}; }}",
                file.rsplit_once('/').map_or("/", |(folder, _)| folder)
            );
        }
    }
    if program.does(Task::Hostname) {
        script.push_str("[ -z \"$HOSTNAME\" ] || { echo \"$HOSTNAME\" >/etc/hostname; hostname \"$HOSTNAME\"; }\n");
    }
    if program.does(Task::Timezone) {
        script.push_str("[ -z \"$TIMEZONE\" ] || ln -sf \"/usr/share/zoneinfo/$TIMEZONE\" /etc/localtime\n");
    }
    if program.does(Task::KeepFstab) {
        // The image's own lines, from the root as it was built, before those of the configuration.
        script.push_str("[ ! -f /rofs/etc/fstab ] || { cat /rofs/etc/fstab /etc/fstab >/etc/fstab.ltsp && mv /etc/fstab.ltsp /etc/fstab; }\n");
    }
}

fn services(script: &mut String, program: &Program) {
    if program.services.is_empty() && !program.does(Task::RemoveLowRam) {
        return;
    }
    let bare = |name: &String| name.strip_suffix(".service").unwrap_or(name).to_owned();
    let kept: Vec<_> = program.kept.iter().map(bare).collect();
    let _ = writeln!(script, "LTSP_KEPT={}", quoted(&kept.join(" ")));
    script.push_str(REMOVE);
    for key in &program.services {
        let _ = writeln!(script, "ltsp_remove ${key}");
    }
    if program.does(Task::RemoveLowRam) {
        // In MiB; LTSP takes 300 if nothing is said.
        script.push_str(
            "ltsp_memory=$(awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo)\n\
             [ \"$ltsp_memory\" -ge \"${RM_RAM_THRESHOLD:-300}\" ] || ltsp_remove $RM_LOW_RAM_SERVICES\n",
        );
    }
}

fn system(script: &mut String, program: &Program) {
    if program.does(Task::Overlay) {
        script.push_str("[ ! -d \"$OVERLAY_DIR\" ] || tar -C \"$OVERLAY_DIR\" -cf - . | tar -C / -xf -\n");
    }
    if program.does(Task::LocalSwap) {
        script.push_str(
            "for ltsp_swap in $(blkid -t TYPE=swap -o device); do\n    \
             echo \"$ltsp_swap none swap nofail 0 0\" >>/etc/fstab\ndone\n",
        );
    }
    if program.rc_lines.is_empty() {
        return;
    }
    script.push_str(RC_BEGINS);
    if program.variables.iter().any(|value| value.assignment.value.contains("kubeadm")) {
        let _ = write!(script, "    cat <<'LTSP_KUBEADM'\n{KUBEADM}LTSP_KUBEADM\n");
    }
    for key in &program.rc_lines {
        let _ = writeln!(script, "    printf '%s\\n' \"${key}\"");
    }
    script.push_str(RC_ENDS);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::KUBEADM;

    /// Runs a line behind the function, in a folder that stands for that of Kubernetes; what it printed, and whether it went well.
    fn run(folder: &std::path::Path, line: &str) -> (String, bool) {
        // The cluster knows the node if there is such a file.
        let known = format!("#!/bin/sh\ntest -f {}/known\n", folder.display());
        for (name, script) in [("kubeadm", "#!/bin/sh\necho kubeadm \"$@\"\n"), ("kubectl", &known)] {
            std::fs::write(folder.join(name), script).unwrap();
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let function = KUBEADM.replace("/etc/kubernetes", &folder.to_string_lossy()).replace("sleep 1", "sleep 0");
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut shell = std::process::Command::new("sh");
        let output = shell.args(["-euc", &format!("{function}{line}\necho after")]).env("PATH", path).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.success())
    }

    #[test]
    fn an_old_line_that_joins_waits_for_the_kubelet_where_the_farm_lets_nodes_join() {
        let folder = tempfile::tempdir().unwrap();
        let join = "kubeadm join 10.9.0.10:6443 --token abcdef.0123456789abcdef";
        assert_eq!(run(folder.path(), join), (format!("{join}\nafter\n"), true), "the farm says nothing of joining");
        std::fs::write(folder.path().join("bootstrap-kubelet.conf"), "").unwrap();
        assert_eq!(run(folder.path(), "kubeadm version"), ("kubeadm version\nafter\n".to_owned(), true));
        assert_eq!(run(folder.path(), join), (String::new(), false), "the lines behind it need a node that has joined");
        std::fs::write(folder.path().join("kubelet.conf"), "").unwrap();
        assert_eq!(run(folder.path(), join), (String::new(), false), "the cluster does not know the node yet");
        std::fs::write(folder.path().join("known"), "").unwrap();
        assert_eq!(run(folder.path(), join), ("after\n".to_owned(), true));
    }
}
