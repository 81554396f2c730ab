//! Redfish, as DMTF's DSP0266 has it: JSON over HTTP with basic authentication, which every service must accept (13.3.4).
//! Sessions are not used: controllers have few, and those of clients that were killed block it for everybody.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use stoke_api::MacAddr;
use stoke_api::objects::{BmcInventory, NetworkBoot, Power};
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use crate::{BmcError, Password, Switch, tls};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a whole answer may take: controllers are slow.
const WHOLE: Duration = Duration::from_mins(1);
/// Bound of an answer.
const LARGEST: u64 = 4 << 20;
/// Questions are asked again this often; orders are not.
const ATTEMPTS: usize = 3;
/// Interfaces that are looked at.
const INTERFACES: usize = 32;

/// How a service is reached.
#[derive(Clone, Debug)]
pub struct RedfishAccess {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Who logs in.
    pub user: String,
    /// With what.
    pub password: Password,
    /// The `Id` of the system, if it is named.
    pub system: Option<String>,
    /// Its SMBIOS UUID, by which it is found among several.
    pub uuid: Option<String>,
    /// A file with the certificates that are believed.
    pub ca_file: Option<PathBuf>,
    /// Whether any certificate is.
    pub insecure: bool,
}

/// A system behind a Redfish service.
#[derive(Debug)]
pub struct Redfish {
    agent: Agent,
    access: RedfishAccess,
    authorization: String,
    /// The path of the system, once it is found.
    system: OnceLock<String>,
}

impl Redfish {
    /// Makes ready to ask; nobody is asked yet.
    ///
    /// # Errors
    /// If the certificates cannot be read.
    pub fn open(access: RedfishAccess) -> Result<Self, BmcError> {
        let tls = tls::config(access.ca_file.as_deref(), access.insecure);
        let tls = tls.map_err(|error| BmcError::Host(error.to_string()))?;
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(concat!("stokehold/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            // The password goes to nobody else.
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(WHOLE));
        let login = format!("{}:{}", access.user, access.password.reveal());
        let authorization = format!("Basic {}", STANDARD.encode(login));
        Ok(Self { agent: config.build().into(), access, authorization, system: OnceLock::new() })
    }

    pub(crate) fn power(&self) -> Result<Power, BmcError> {
        match text(&self.described()?.0, "/PowerState").as_deref() {
            // A server on its way up has begun; one that goes down is not off.
            Some("On" | "PoweringOn" | "PoweringOff" | "Paused") => Ok(Power::On),
            Some("Off") => Ok(Power::Off),
            other => Err(BmcError::Strange(format!("it says the power is {}", other.unwrap_or("nothing")))),
        }
    }

    pub(crate) fn switch(&self, switch: Switch) -> Result<(), BmcError> {
        let (system, _) = self.described()?;
        let off = text(&system, "/PowerState").as_deref() == Some("Off");
        let reset = system.pointer("/Actions/#ComputerSystem.Reset").cloned().unwrap_or_default();
        let target = text(&reset, "/target").ok_or_else(|| strange("it has no power action"))?;
        let wanted: &[&str] = match switch {
            Switch::On => &["On", "ForceOn"],
            Switch::Cycle if off => &["On", "ForceOn"],
            Switch::ShutDown => &["GracefulShutdown", "PushPowerButton"],
            Switch::Off => &["ForceOff"],
            Switch::Cycle => &["ForceRestart", "PowerCycle"],
        };
        let kind = allowed(&reset, wanted)?;
        let answer = self.order(self.agent.post(self.url(&target)?), &json!({"ResetType": kind}), None)?;
        self.good(answer).map(drop)
    }

    pub(crate) fn boot_from_network_once(&self, mode: NetworkBoot) -> Result<(), BmcError> {
        let mode = match mode {
            NetworkBoot::Uefi => "UEFI",
            NetworkBoot::Bios => "Legacy",
        };
        for _ in 0..ATTEMPTS {
            let (system, tag) = self.described()?;
            let mut boot = json!({"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe"});
            // Those that have one mode alone do not have the field, and refuse it.
            if let (Some(boot), Some(_)) = (boot.as_object_mut(), text(&system, "/Boot/BootSourceOverrideMode")) {
                boot.insert("BootSourceOverrideMode".to_owned(), json!(mode));
            }
            let request = self.agent.patch(self.url(&self.path()?)?);
            let answer = self.order(request, &json!({"Boot": boot}), tag.as_deref())?;
            // Somebody else changed it in between: it is read again (DSP0266, 6.5).
            if answer.status() != StatusCode::PRECONDITION_FAILED {
                return self.good(answer).map(drop);
            }
        }
        Err(BmcError::Refused("what is booted next changes all the time".to_owned()))
    }

    pub(crate) fn inventory(&self) -> Result<BmcInventory, BmcError> {
        let (system, _) = self.described()?;
        let mut macs = Vec::new();
        if let Some(interfaces) = text(&system, "/EthernetInterfaces/@odata.id") {
            for path in members(&self.get(&interfaces)?.0).into_iter().take(INTERFACES) {
                let (interface, _) = self.get(&path)?;
                let mac = text(&interface, "/PermanentMACAddress").or_else(|| text(&interface, "/MACAddress"));
                macs.extend(mac.and_then(|mac| mac.replace('-', ":").parse::<MacAddr>().ok()));
            }
        }
        Ok(BmcInventory {
            uuid: text(&system, "/UUID").map(|uuid| uuid.to_lowercase()),
            manufacturer: text(&system, "/Manufacturer"),
            product: text(&system, "/Model"),
            serial: text(&system, "/SerialNumber"),
            macs,
        })
    }

    /// The system, and its `ETag`.
    fn described(&self) -> Result<(Value, Option<String>), BmcError> {
        self.get(&self.path()?)
    }

    /// The path of the system, found at the first question.
    fn path(&self) -> Result<String, BmcError> {
        if let Some(path) = self.system.get() {
            return Ok(path.clone());
        }
        let (root, _) = self.get("/redfish/v1/")?;
        let systems = text(&root, "/Systems/@odata.id").ok_or_else(|| strange("it has no systems"))?;
        let path = self.choose(&members(&self.get(&systems)?.0))?;
        Ok(self.system.get_or_init(|| path).clone())
    }

    fn choose(&self, paths: &[String]) -> Result<String, BmcError> {
        if let ([only], None) = (paths, &self.access.system) {
            return Ok(only.clone());
        }
        for path in paths {
            let (system, _) = self.get(path)?;
            let by_name = self.access.system.as_ref().is_some_and(|name| text(&system, "/Id").as_ref() == Some(name));
            let by_uuid = || {
                let uuid = text(&system, "/UUID");
                self.access.uuid.as_ref().is_some_and(|own| uuid.is_some_and(|uuid| uuid.eq_ignore_ascii_case(own)))
            };
            if by_name || (self.access.system.is_none() && by_uuid()) {
                return Ok(path.clone());
            }
        }
        let hint = "name the one that is meant: spec.bmc.redfish.system, or spec.uuid";
        Err(strange(&format!("it has {} systems, none of which is known to be this one; {hint}", paths.len())))
    }

    /// Paths are the service's own; an address of another host is none.
    fn url(&self, path: &str) -> Result<String, BmcError> {
        if !path.starts_with('/') || path.starts_with("//") {
            return Err(strange("it names another host"));
        }
        Ok(format!("{}{path}", self.access.url.trim_end_matches('/')))
    }

    fn get(&self, path: &str) -> Result<(Value, Option<String>), BmcError> {
        let url = self.url(path)?;
        let mut attempt = 1;
        loop {
            let request = self.agent.get(&url).header("authorization", &self.authorization);
            let answer = request.header("odata-version", "4.0").header("accept", "application/json").call();
            let busy = |answer: &Response<Body>| {
                matches!(answer.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
            };
            match answer {
                Ok(answer) if !busy(&answer) || attempt == ATTEMPTS => return self.good(answer).and_then(read),
                Err(error) if attempt == ATTEMPTS => return Err(self.unreachable(&error)),
                _ => attempt += 1,
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn order(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithBody>,
        body: &Value,
        tag: Option<&str>,
    ) -> Result<Response<Body>, BmcError> {
        let mut request = request.header("authorization", &self.authorization).header("odata-version", "4.0");
        if let Some(tag) = tag {
            request = request.header("if-match", tag);
        }
        request.send_json(body).map_err(|error| self.unreachable(&error))
    }

    fn good(&self, mut answer: Response<Body>) -> Result<Response<Body>, BmcError> {
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(BmcError::Unauthorized(self.access.url.clone())),
            status => {
                let body = answer.body_mut().with_config().limit(LARGEST).lossy_utf8(true).read_to_string();
                Err(BmcError::Refused(format!("{status}{}", said(&body.unwrap_or_default()))))
            }
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> BmcError {
        BmcError::Unreachable { at: self.access.url.clone(), why: error.to_string() }
    }
}

fn strange(why: &str) -> BmcError {
    BmcError::Strange(why.to_owned())
}

fn text(value: &Value, pointer: &str) -> Option<String> {
    let text = value.pointer(pointer)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn members(collection: &Value) -> Vec<String> {
    let members = collection.pointer("/Members").and_then(Value::as_array);
    members.into_iter().flatten().filter_map(|member| text(member, "/@odata.id")).collect()
}

/// The first of `wanted` that the action takes; the first at all where it does not say.
fn allowed<'a>(reset: &Value, wanted: &[&'a str]) -> Result<&'a str, BmcError> {
    let list = reset.pointer("/ResetType@Redfish.AllowableValues").and_then(Value::as_array);
    let takes = |kind: &&str| list.is_none_or(|list| list.iter().any(|value| value.as_str() == Some(kind)));
    let found = wanted.iter().copied().find(|kind| takes(kind));
    found.ok_or_else(|| BmcError::Refused(format!("it cannot do {}", wanted.join(" or "))))
}

/// What a refusal says for people: the extended message before the general one (DSP0266, 8.6).
fn said(body: &str) -> String {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let extended = text(&value, "/error/@Message.ExtendedInfo/0/Message");
    let message = extended.or_else(|| text(&value, "/error/message"));
    message.map(|message| format!(": {}", message.chars().take(200).collect::<String>())).unwrap_or_default()
}

fn read(mut answer: Response<Body>) -> Result<(Value, Option<String>), BmcError> {
    let tag = answer.headers().get("etag").and_then(|tag| tag.to_str().ok()).map(str::to_owned);
    let value: Result<Value, _> = answer.body_mut().with_config().limit(LARGEST).read_json();
    let value = value.map_err(|error| BmcError::Strange(format!("its answer is no JSON: {error}")))?;
    let tag = tag.or_else(|| text(&value, "/@odata.etag"));
    Ok((value, tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_kind_that_it_takes() {
        let reset = json!({"ResetType@Redfish.AllowableValues": ["ForceOff", "PowerCycle"]});
        assert_eq!(allowed(&reset, &["ForceRestart", "PowerCycle"]).unwrap(), "PowerCycle");
        assert!(allowed(&reset, &["On"]).is_err());
        assert_eq!(allowed(&json!({}), &["On", "ForceOn"]).unwrap(), "On");
    }

    #[test]
    fn refusals_for_people() {
        let both =
            json!({"error": {"message": "general", "@Message.ExtendedInfo": [{"Message": "The fan is missing."}]}});
        assert_eq!(said(&both.to_string()), ": The fan is missing.");
        assert_eq!(said(r#"{"error":{"message":"general"}}"#), ": general");
        assert_eq!(said("<html>"), "");
    }
}
