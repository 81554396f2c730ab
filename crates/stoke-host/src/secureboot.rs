//! The keys of farms for Secure Boot: where they are, and which farms have some.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use stoke_api::{AnyObject, Kind, ObjectRef};
use stoke_reconcile::FarmKeys;
use stoke_reconcile::names::{farm_folder, key};
use stoke_secureboot::KeySet;
use stoke_secureboot::variables::Variable;

use crate::paths::Folders;

/// The folder of a farm's keys.
pub fn folder(folders: &Folders, farm: &ObjectRef) -> PathBuf {
    farm_folder(&folders.state, farm).join("secureboot")
}

/// The farms that have keys, by `NAMESPACE/NAME`. Keys that cannot be read are told in the log, each time anew.
pub fn farm_keys(state: &Path, objects: &[AnyObject]) -> BTreeMap<String, FarmKeys> {
    let farms = objects.iter().map(AnyObject::reference).filter(|reference| reference.kind == Kind::Farm);
    let found = farms.filter_map(|farm| {
        let keys = KeySet::find(&farm_folder(state, &farm).join("secureboot"))?;
        match keys.fingerprint(Variable::Db) {
            Ok(fingerprint) => Some((key(&farm), FarmKeys { folder: keys.folder().to_owned(), fingerprint })),
            Err(error) => {
                tracing::error!(%farm, "cannot read the keys for Secure Boot: {error}");
                None
            }
        }
    });
    found.collect()
}
