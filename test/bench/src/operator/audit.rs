//! What the operator wrote, by the API server's audit log: whatever it says of itself.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde_json::{Value, json};

/// The operator's name.
pub(crate) const USER: &str = "operator";

/// The log.
pub(crate) struct Audit {
    file: PathBuf,
    read: u64,
    rest: String,
}

/// One write that was done.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) verb: String,
    pub(crate) resource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) at: Timestamp,
}

impl Audit {
    /// A log in a folder, and what the API server must be told of it.
    pub(crate) fn new(folder: &Path) -> Result<(Self, Vec<String>)> {
        let (policy, file) = (folder.join("audit.json"), folder.join("audit.log"));
        let rules = json!([
            {"level": "Metadata", "users": [USER], "verbs": ["create", "update", "patch", "delete"]},
            {"level": "None"},
        ]);
        let text = json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules});
        fs_err::write(&policy, text.to_string())?;
        let arguments = vec![
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", file.display()),
            "--audit-log-mode=blocking".to_owned(),
        ];
        Ok((Self { file, read: 0, rest: String::new() }, arguments))
    }

    /// What was written since the last look, its lease aside.
    pub(crate) fn new_writes(&mut self) -> Result<Vec<Write>> {
        let mut file = fs_err::File::open(&self.file)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = std::mem::take(&mut self.rest);
        self.read += file.read_to_string(&mut text)? as u64;
        let end = text.rfind('\n').map_or(0, |end| end + 1);
        self.rest = text.split_off(end);
        let writes = text.lines().map(parse).collect::<Result<Vec<_>>>()?;
        Ok(writes.into_iter().flatten().collect())
    }
}

fn parse(line: &str) -> Result<Option<Write>> {
    let event: Value = serde_json::from_str(line).context("the audit log is not JSON")?;
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let resource = [text("/objectRef/resource"), text("/objectRef/subresource")].join("/");
    if resource == "leases/" || event.pointer("/responseStatus/code").and_then(Value::as_u64) >= Some(300) {
        return Ok(None);
    }
    Ok(Some(Write {
        verb: text("/verb"),
        resource: resource.trim_end_matches('/').to_owned(),
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        at: text("/stageTimestamp").parse().context("no time in the audit log")?,
    }))
}
