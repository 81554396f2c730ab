//! Each verb: from the command line to the library, and its answer to standard output.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use stoke_runtime::error::{Context as _, Error, Result};
use stoke_runtime::spec::{BlockIo, Cpu, Memory, Pids, Resources};
use stoke_runtime::state::Root;
use stoke_runtime::verbs::create::Creation;
use stoke_runtime::verbs::exec::Execution;
use stoke_runtime::verbs::{self, Runtime};
use stoke_runtime::wire::Options;

use crate::cli::{Arguments, CgroupManager, Create, Events, Exec, Format, Global, List, Ps, Spec, Update, Verb};
use crate::log::Log;

/// Does what was asked for, and gives what to exit with.
pub(crate) fn run(arguments: &Arguments, log: &Log) -> Result<u8> {
    if let Verb::Spec(spec) = &arguments.verb {
        write_spec(spec, arguments.global.rootless == "true")?;
        return Ok(0);
    }
    let runtime = runtime(&arguments.global)?;
    log.debug(&format!("{:?}", arguments.verb));
    let mut warnings = Vec::new();
    let mut code = 0;
    match &arguments.verb {
        Verb::Create(create) => verbs::create(&runtime, &creation(create))?,
        Verb::Start(start) => warnings = verbs::start(&runtime, &start.id)?,
        Verb::State(state) => {
            print_json(&serde_json::to_value(verbs::state(&runtime, &state.id)?).unwrap_or_default())?;
        }
        Verb::Kill(kill) => verbs::kill(&runtime, &kill.id, verbs::parse_signal(&kill.signal)?, kill.all)?,
        Verb::Delete(delete) => warnings = verbs::delete(&runtime, &delete.id, delete.force)?,
        Verb::Run(run) => {
            (code, warnings) = verbs::run(&runtime, &creation(&run.create), run.detach, run.keep)?;
        }
        Verb::Exec(exec) => code = verbs::exec(&runtime, &execution(exec)?)?,
        Verb::Ps(ps) => print_processes(&runtime, ps)?,
        Verb::List(list) => print_list(&runtime, list)?,
        Verb::Pause(pause) => verbs::pause(&runtime, &pause.id)?,
        Verb::Resume(resume) => verbs::resume(&runtime, &resume.id)?,
        Verb::Update(update) => verbs::update(&runtime, &update.id, &resources(update)?)?,
        Verb::Events(events) => print_events(&runtime, events)?,
        Verb::Features => print_json(&verbs::features())?,
        Verb::Spec(_) => {}
    }
    for warning in warnings {
        log.warning(&warning.line());
    }
    Ok(code)
}

fn runtime(global: &Global) -> Result<Runtime> {
    if global.systemd_cgroup || global.cgroup_manager == CgroupManager::Systemd {
        return Err(Error::Input("the systemd cgroup manager is not supported: use cgroupfs".to_owned()));
    }
    if !["auto", "false"].contains(&global.rootless.as_str()) {
        return Err(Error::Input("--rootless is not supported: run this as root".to_owned()));
    }
    let root = std::path::absolute(&global.root).context(|| "--root".to_owned())?;
    let lxc_log_level = if global.debug { "DEBUG" } else { "ERROR" }.to_owned();
    Ok(Runtime { root: Root::new(root), lxc_log_level })
}

fn creation(create: &Create) -> Creation {
    Creation {
        id: create.id.clone(),
        bundle: create.bundle.clone(),
        config: create.config.clone(),
        console_socket: create.console_socket.clone(),
        console: None,
        pid_file: create.pid_file.clone(),
        options: Options {
            no_pivot: create.no_pivot,
            no_new_keyring: create.no_new_keyring,
            preserve_fds: create.preserve_fds,
        },
    }
}

fn execution(exec: &Exec) -> Result<Execution> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| Error::Input(format!("--user: {text:?} is no number")));
    let user = match exec.user.as_deref().map(|user| user.split_once(':').map_or((user, None), |(u, g)| (u, Some(g)))) {
        Some((user, group)) => Some((number(user)?, group.map(number).transpose()?)),
        None => None,
    };
    Ok(Execution {
        id: exec.id.clone(),
        process: exec.process.clone(),
        args: exec.command.clone(),
        cwd: exec.cwd.clone(),
        env: exec.env.clone(),
        user,
        additional_gids: exec.additional_gids.clone(),
        capabilities: exec.cap.clone(),
        no_new_privileges: exec.no_new_privs,
        apparmor: exec.apparmor.clone(),
        process_label: exec.process_label.clone(),
        terminal: exec.tty,
        console_socket: exec.console_socket.clone(),
        pid_file: exec.pid_file.clone(),
        detach: exec.detach,
        ignore_paused: exec.ignore_paused,
        options: Options { preserve_fds: exec.preserve_fds, ..Options::default() },
    })
}

fn resources(update: &Update) -> Result<Resources> {
    if let Some(path) = &update.resources {
        let text = read(path)?;
        return serde_json::from_str(&text).map_err(|error| Error::Input(format!("{}: {error}", path.display())));
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(Resources {
        memory: Some(Memory {
            limit: update.memory,
            swap: update.memory_swap,
            reservation: update.memory_reservation,
            ..Memory::default()
        }),
        cpu: Some(Cpu {
            shares: update.cpu_share,
            quota: update.cpu_quota,
            period: update.cpu_period,
            burst: update.cpu_burst,
            idle: update.cpu_idle,
            cpus: text(&update.cpuset_cpus),
            mems: text(&update.cpuset_mems),
            ..Cpu::default()
        }),
        pids: Some(Pids { limit: update.pids_limit }),
        block_io: update.blkio_weight.map(|weight| BlockIo { weight: Some(weight), ..BlockIo::default() }),
        ..Resources::default()
    })
}

fn read(path: &Path) -> Result<String> {
    let what = || format!("cannot read {}", path.display());
    if path != Path::new("-") {
        return std::fs::read_to_string(path).context(what);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context(what)?;
    Ok(text)
}

/// A reader that has gone away is no failure of ours.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::system("cannot print", error)),
        _ => Ok(()),
    }
}

fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value}\n"))
}

fn print_list(runtime: &Runtime, list: &List) -> Result<()> {
    let listed = verbs::list(runtime)?;
    if list.quiet {
        return listed.iter().try_for_each(|one| print(&format!("{}\n", one.id)));
    }
    if list.format == Format::Json {
        return print_json(&serde_json::to_value(listed).unwrap_or_default());
    }
    let width = listed.iter().map(|one| one.id.len()).max().unwrap_or_default().max(2);
    print(&format!("{:width$}  {:>7}  {:8}  {:30}  BUNDLE\n", "ID", "PID", "STATUS", "CREATED"))?;
    listed.iter().try_for_each(|one| {
        let bundle = one.bundle.display();
        print(&format!("{:width$}  {:>7}  {:8}  {:30}  {bundle}\n", one.id, one.pid, one.status, one.created))
    })
}

fn print_processes(runtime: &Runtime, ps: &Ps) -> Result<()> {
    let processes = verbs::processes(runtime, &ps.id)?;
    if ps.format == Format::Json {
        return print_json(&serde_json::json!(processes));
    }
    let options = if ps.options.is_empty() { vec!["-ef".to_owned()] } else { ps.options.clone() };
    let output = std::process::Command::new("ps").args(options).output().context(|| "cannot run ps".to_owned())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let header = text.lines().next().unwrap_or_default();
    let column = header.split_ascii_whitespace().position(|name| name == "PID");
    let column = column.ok_or_else(|| Error::Input("ps prints no column PID with these options".to_owned()))?;
    print(&format!("{header}\n"))?;
    let is_ours = |line: &&str| {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|pid| pid.parse().ok());
        pid.is_some_and(|pid| processes.contains(&pid))
    };
    text.lines().skip(1).filter(is_ours).try_for_each(|line| print(&format!("{line}\n")))
}

/// Prints what the container uses; without `--stats` again and again, until it has stopped.
fn print_events(runtime: &Runtime, events: &Events) -> Result<()> {
    let seconds = events.interval.trim_end_matches('s').parse::<u64>();
    let seconds = seconds.map_err(|_| Error::Input(format!("--interval: {:?} is no time", events.interval)))?;
    print_json(&verbs::stats(runtime, &events.id)?)?;
    if events.stats {
        return Ok(());
    }
    loop {
        std::thread::sleep(Duration::from_secs(seconds.max(1)));
        match verbs::stats(runtime, &events.id) {
            Ok(stats) => print_json(&stats)?,
            Err(_stopped) => return Ok(()),
        }
    }
}

fn write_spec(spec: &Spec, rootless: bool) -> Result<()> {
    let path = spec.bundle.join("config.json");
    let what = || format!("cannot write {}", path.display());
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).context(what)?;
    let text = serde_json::to_string_pretty(&verbs::template(rootless)).unwrap_or_default();
    file.write_all(text.as_bytes()).context(what)
}
