//! `stoke farm keys`: a farm's keys for UEFI Secure Boot. They are files of the installation, so this works without a running
//! one; a running one finds them by itself.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use stoke_api::{Kind, ObjectRef};
use stoke_secureboot::variables::Variable;
use stoke_secureboot::{KeyError, KeySet, store};

use crate::cli::Keys;
use crate::client::Client;
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output;

/// What stands beside the exported files.
const README: &str = "\
These files bring a farm's keys for UEFI Secure Boot into a server's firmware. None of them is secret.

In the firmware's set-up: put Secure Boot into set-up mode (\"Clear Secure Boot keys\", \"Reset to Setup Mode\"), then enroll
db, KEK and PK in this order, PK last; then switch Secure Boot on. Set-ups take .auth, .esl or .cer files, from a USB stick
formatted with FAT.

From a Linux that runs on the server in set-up mode, with efitools:
  efi-updatevar -e -f db.esl db
  efi-updatevar -e -f KEK.esl KEK
  efi-updatevar -f PK.auth PK

To trust Microsoft's keys besides, so that option ROMs and other systems still start, enroll theirs into db, too, before PK.
To change db later, while the server is not in set-up mode: efi-updatevar -f db.auth db, with a newly exported db.auth.
";

pub(crate) async fn run(folders: &Folders, keys: &Keys) -> anyhow::Result<ExitCode> {
    match keys {
        Keys::Create(farm) => create(folders, &farm.reference()).await?,
        Keys::Show(farm) => show(&of(folders, &farm.reference())?)?,
        Keys::Export { farm, to } => export(&of(folders, &farm.reference())?, to)?,
        Keys::Enroll { farm, variables } => enroll(&of(folders, &farm.reference())?, variables)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn of(folders: &Folders, farm: &ObjectRef) -> anyhow::Result<KeySet> {
    let missing =
        || Failure::hinted(format!("{farm} has no keys"), format!("make some: stoke farm keys create {}", farm.name));
    KeySet::find(&stoke_host::secureboot::folder(folders, farm)).ok_or_else(missing)
}

async fn create(folders: &Folders, farm: &ObjectRef) -> anyhow::Result<()> {
    refuse_a_slip(folders, farm).await?;
    let folder = stoke_host::secureboot::folder(folders, farm);
    let keys = match KeySet::create(&folder, &format!("Stokehold farm {}", farm.name)) {
        Err(KeyError::Exists(_)) => {
            let hint = format!("see them: stoke farm keys show {}", farm.name);
            return Err(Failure::hinted(format!("{farm} has keys already"), hint));
        }
        made => made.with_context(|| format!("cannot make keys at {}", folder.display()))?,
    };
    show(&keys)?;
    Ok(output::print(&format!(
        "\nKeep {} as you keep the servers: who has it can boot anything on them.\n\
         Virtual machines: `vm: {{firmware: {{uefi: {{secureBoot: true}}}}}}`.\n\
         Servers: stoke farm keys export {} --to DIR\n",
        folder.display(),
        farm.name
    ))?)
}

/// Keys of a farm that is not there would never be used. Without a running installation nobody knows.
async fn refuse_a_slip(folders: &Folders, farm: &ObjectRef) -> anyhow::Result<()> {
    let client = Client::new(&folders.control_socket())?;
    if !client.is_alive().await? {
        return Ok(());
    }
    let farms = client.list(Kind::Farm, farm.namespace.as_ref()).await?;
    if farms.iter().any(|object| object.reference() == *farm) {
        return Ok(());
    }
    let names: Vec<_> = farms.iter().map(|object| object.reference().name.to_string()).collect();
    let hint =
        if names.is_empty() { "there is no farm yet".to_owned() } else { format!("farms: {}", names.join(", ")) };
    Err(Failure::hinted(format!("there is no {farm}"), hint))
}

fn show(keys: &KeySet) -> anyhow::Result<()> {
    let mut table = output::Table::new(&["KEY", "SHA-256 OF ITS CERTIFICATE"]);
    for variable in [Variable::Pk, Variable::Kek, Variable::Db] {
        table.row(vec![variable.name().to_owned(), keys.fingerprint(variable)?]);
    }
    Ok(output::print(&table.render(""))?)
}

fn export(keys: &KeySet, to: &Path) -> anyhow::Result<()> {
    fs_err::create_dir_all(to)?;
    for file in keys.export(now())? {
        fs_err::write(to.join(&file.name), file.content)?;
        output::print(&format!("{}\n", to.join(file.name).display()))?;
    }
    fs_err::write(to.join("README.txt"), README)?;
    Ok(output::print(&format!("{}\n", to.join("README.txt").display()))?)
}

fn enroll(keys: &KeySet, variables: &Path) -> anyhow::Result<()> {
    let mut flash = fs_err::read(variables)?;
    let enrolled = store::enroll(&mut flash, &keys.lists()?, now());
    enrolled.with_context(|| format!("cannot put the keys into {}", variables.display()))?;
    Ok(fs_err::write(variables, flash)?)
}

/// Now, in UTC: firmware takes an update only if it is later than the last one.
fn now() -> DateTime {
    Timestamp::now().to_zoned(TimeZone::UTC).datetime()
}
