//! `stoke farm trace`: a machine's boots, as the router and the farm saw them.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use serde_json::json;
use stoke_api::MacAddr;
use stoke_api::control::Traced;
use stoke_api::trace::TraceEvent;

use super::timeline::{Boot, Canvas, boots};
use crate::cli::{FarmTrace, Report, references};
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output::{self, Color};

/// Columns where nobody says how many there are.
const WIDTH: u16 = 80;

pub(crate) async fn run(folders: &Folders, trace: &FarmTrace) -> anyhow::Result<ExitCode> {
    let client = Client::connect(folders).await?;
    let traced = match trace.machine.parse::<MacAddr>() {
        Ok(mac) => client.trace(mac).await?,
        Err(_) => client.trace_object(&object(trace)?).await?,
    };
    for Traced { workload, failure, .. } in &traced {
        if let Some(failure) = failure {
            eprintln!("{}", output::paint_stderr(Color::Yellow, &format!("{workload} says nothing: {failure}")));
        }
    }
    let mut boots = boots(merged(traced));
    if !trace.all && boots.len() > 1 {
        boots.drain(..boots.len() - 1);
    }
    output::print(&show(&boots, trace)?)?;
    Ok(if boots.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn object(trace: &FarmTrace) -> anyhow::Result<stoke_api::ObjectRef> {
    let usage =
        || Failure::usage(format!("{:?} is no machine", trace.machine), "write a MAC, machine/NAME or server/NAME");
    let mut found = references(std::slice::from_ref(&trace.machine), None, &trace.namespace).map_err(|_| usage())?;
    found.pop().ok_or_else(usage)
}

/// What all roles remember, in the order in which it happened.
fn merged(traced: Vec<Traced>) -> Vec<TraceEvent> {
    let mut events: Vec<_> = traced.into_iter().flat_map(|traced| traced.events).collect();
    events.sort_by_key(|event| event.at_ms);
    events
}

fn show(boots: &[Boot], trace: &FarmTrace) -> anyhow::Result<String> {
    if trace.output == Report::Json {
        let document = json!({"machine": trace.machine, "boots": boots});
        return Ok(format!("{}\n", serde_json::to_string_pretty(&document)?));
    }
    if boots.is_empty() {
        return Ok(format!("{}: nothing was heard of it since its router and farm were started\n", trace.machine));
    }
    let canvas = Canvas { width: width().into(), unicode: !trace.ascii && shows_unicode() };
    Ok(boots.iter().map(|boot| boot.draw(canvas)).collect::<Vec<_>>().join("\n"))
}

fn width() -> u16 {
    let stdout = std::io::stdout();
    let terminal = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok()).flatten();
    let set = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal.map(|size| size.ws_col).or_else(set).filter(|columns| *columns > 0).unwrap_or(WIDTH)
}

/// POSIX, section 8.2: the first of these that is set decides.
fn shows_unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().filter_map(|name| std::env::var(name).ok());
    let locale =
        locale.filter(|value| !value.is_empty()).map(|value| value.to_ascii_lowercase().replace('-', "")).next();
    locale.is_some_and(|locale| locale.contains("utf8"))
}
