//! A machine's TPM: there when the machine is, the same one each time, and gone with it.

use std::path::{Path, PathBuf};

use crate::world::{World, until};

/// Processes that have this socket among their arguments and are a TPM.
fn tpms(socket: &Path) -> Vec<u32> {
    let wanted = format!("type=unixio,path={}", socket.display());
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_one = |pid: &u32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let program = arguments.next().unwrap_or_default().ends_with("swtpm");
        program && arguments.any(|argument| argument.starts_with(&wanted))
    };
    numbers.filter(is_one).collect()
}

fn socket(world: &World) -> PathBuf {
    world.config.run.join("tpm.sock")
}

#[test]
fn a_tpm_comes_and_goes_with_its_machine_and_keeps_its_state() {
    let mut world = World::new();
    world.config.tpm = true;
    world.start();
    world.until_running();
    let [first] = tpms(&socket(&world))[..] else { panic!("one TPM") };
    let state = world.config.state.join("tpm/tpm2-00.permall");
    let kept = until("the TPM's state is written", || std::fs::read(&state).ok().filter(|state| !state.is_empty()));
    world.kill_owner();
    world.start();
    world.until_running();
    assert_eq!(tpms(&socket(&world)), [first], "the TPM of a machine that was adopted");
    world.stop();
    until("the TPM ends", || tpms(&socket(&world)).is_empty().then_some(()));
    world.start();
    world.until_running();
    assert_eq!(tpms(&socket(&world)).len(), 1);
    assert_eq!(std::fs::read(&state).unwrap().len(), kept.len(), "another TPM");
    world.reload(|config| config.reboots_requested = 1);
    world.until_report("it was rebooted", |report| report.reboots == 1 && report.pid.is_some());
    until("one TPM is left", || (tpms(&socket(&world)).len() == 1).then_some(()));
    world.stop();
    until("the TPM ends", || tpms(&socket(&world)).is_empty().then_some(()));
}
