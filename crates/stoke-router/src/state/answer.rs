//! The answer to a DHCP request: what it boots, what it is given, and what is remembered of it.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::objects::DhcpMode;
use stoke_api::report::Conflict;
use stoke_api::trace::TraceEvent;
use stoke_api::workload::{FarmBoot, RouterHost};
use stoke_boot::policy::{self, Asker, Refusal, farm_of, recognise};
use stoke_dhcp::wire::option;
use stoke_dhcp::{Answer, BootOptions, MessageType, Record, Request, Sighting};

use super::State;
use crate::guard::{CHAINS, CIRCLE};
use crate::proxy::Port;
use crate::{plan, proxy};

/// The farm as this host sees it: it may boot another version than the others.
pub(super) fn for_host<'a>(farm: &'a FarmBoot, host: Option<&RouterHost>) -> Cow<'a, FarmBoot> {
    match host.filter(|host| !host.kernels.is_empty()) {
        Some(host) => Cow::Owned(FarmBoot { kernels: host.kernels.clone(), ..farm.clone() }),
        None => Cow::Borrowed(farm),
    }
}

/// What became of a request.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) answer: Answer,
    /// For the trace of a machine that boots or that an object names.
    pub(crate) event: Option<TraceEvent>,
    /// An address of this segment that was offered to somebody who does not have it yet: somebody else may use it.
    pub(crate) unproved: Option<Ipv4Addr>,
    /// Whether the client was found to go round in circles just now.
    pub(crate) loops: bool,
}

/// What a client is told to boot.
struct Boot {
    options: BootOptions,
    program: String,
}

impl State {
    /// Answers a DHCP request.
    pub(crate) fn answer(&mut self, request: &Request, source: Ipv4Addr, port: Port, now_ms: u64) -> Told {
        let asker = recognise(&plan::boot_client(request));
        if request.kind == MessageType::Discover
            && let Some(asker) = asker.filter(Asker::is_firmware)
        {
            self.note_boot(request, asker, now_ms);
        }
        let boot = asker.map(|asker| self.boot(request, asker, port, now_ms));
        if request.kind == MessageType::Discover
            && let Some(asker) = asker
        {
            self.note_refusal(request, asker, now_ms / 1000);
        }
        let told = boot.as_ref().and_then(|boot| boot.as_ref().ok());
        let options = told.map(|boot| &boot.options);
        let had = self.server.leases().of(request.mac).map(|lease| lease.address);
        let answer = match port {
            Port::Dhcp => self.server.handle(request, source, options, now_ms / 1000),
            Port::Boot => self.server.handle_boot_request(request, options),
        };
        self.take_note(request, &answer, now_ms / 1000);
        let program = told.map(|boot| boot.program.as_str());
        let loops = program.is_some_and(|program| self.goes_round(request, asker, &answer, program, now_ms));
        let offered = answer.address.filter(|address| Some(*address) != had && !request.is_relayed());
        let unproved = offered.filter(|_| answer.kind == Some(MessageType::Offer));
        let result = plan::result(&answer, program, boot.as_ref().and_then(|boot| boot.as_ref().err()));
        let event = self.event(request, asker, result, now_ms);
        Told { answer, event, unproved, loops }
    }

    /// Takes note of a machine that its farm has nothing for, and never will as things are: it would wait for ever without
    /// anybody knowing why.
    fn note_refusal(&mut self, request: &Request, asker: Asker, now: u64) {
        let named = self.host(request).map(|host| host.farm.as_deref());
        let refusal = farm_of(named, &self.config.farms).and_then(|farm| policy::boot(&asker, farm).err());
        let lasting = refusal.filter(|refusal| {
            matches!(refusal, Refusal::NoProgram(_) | Refusal::NoKernel(stoke_api::workload::Architecture::Arm64))
        });
        let Some(refusal) = lasting else { return self.alarms.bootable(request.mac) };
        let reason = refusal.to_string();
        if self.alarms.unbootable(request.mac, &reason, now) {
            tracing::warn!(mac = %request.mac, "asks for a boot in vain: {reason}");
        }
    }

    /// What the client boots, or why it boots nothing.
    fn boot(&self, request: &Request, asker: Asker, port: Port, now_ms: u64) -> Result<Boot, String> {
        let host = self.host(request);
        let farm = farm_of(host.map(|host| host.farm.as_deref()), &self.config.farms).ok_or("no farm feeds it")?;
        let farm = &*for_host(farm, host);
        let answer = policy::answer(&asker, request.mac, farm).ok_or_else(|| {
            policy::boot(&asker, farm).err().map_or_else(|| "nothing to boot".to_owned(), |refusal| refusal.to_string())
        })?;
        let mut options = plan::boot_options(answer);
        let program = program(&options);
        let again = matches!(asker, Asker::Ipxe { able: false, .. });
        if again && self.guard.count(request.mac, request.xid, &program, now_ms) >= CHAINS {
            return Err(format!("{program} was loaded {CHAINS} times and did not help"));
        }
        if self.config.dhcp == DhcpMode::Proxy {
            options = proxy::options(options, asker, port, farm.address_for(request.mac));
        }
        Ok(Boot { options, program })
    }

    /// Counts what the client was told to load. Whether it goes round in circles, said once for each circle.
    fn goes_round(
        &mut self,
        request: &Request,
        asker: Option<Asker>,
        answer: &Answer,
        program: &str,
        now_ms: u64,
    ) -> bool {
        let proxied = self.config.dhcp == DhcpMode::Proxy && answer.kind == Some(MessageType::Offer);
        if !proxied && answer.kind != Some(MessageType::Ack) {
            return false;
        }
        if asker == Some(Asker::Init) {
            self.guard.arrived(request.mac);
            return false;
        }
        let times = self.guard.told(request.mac, request.xid, program, now_ms);
        let loops = times > 0 && times.is_multiple_of(CIRCLE + 1);
        if loops {
            let mac = request.mac;
            tracing::warn!(%mac, program, times, "loads the same again and again; does it start? see its console");
        }
        loops
    }

    fn take_note(&mut self, request: &Request, answer: &Answer, now: u64) {
        if answer.exhausted {
            self.alarms.exhausted(now);
        }
        match &answer.record {
            Some(Record::Declined { address, .. }) => {
                tracing::warn!(%address, mac = %request.mac, "declined: somebody else uses the address");
                let noticed = "declined".to_owned();
                self.alarms.conflict(Conflict { address: *address, mac: None, noticed, at: now });
            }
            Some(_) => self.zone_until = 0,
            None => {}
        }
    }

    fn event(&self, request: &Request, asker: Option<Asker>, result: String, now_ms: u64) -> Option<TraceEvent> {
        if asker.is_none() && self.host(request).is_none() {
            return None;
        }
        let kind = format!("{:?}", request.kind).to_uppercase();
        let what = asker.map_or_else(|| kind.clone(), |asker| format!("{kind} {asker}"));
        let (mac, way) = (request.mac, "dhcp".to_owned());
        Some(TraceEvent { at_ms: now_ms, took_ms: None, mac, way, what, result, bytes: None })
    }

    /// A station on the segment says that it has an address. What to write to the journal.
    pub(crate) fn sighted(&mut self, address: Ipv4Addr, mac: MacAddr, now: u64) -> Option<Record> {
        self.alarms.station(address, mac);
        if !matches!(self.config.dhcp, DhcpMode::Authoritative | DhcpMode::Reservations) {
            return None;
        }
        let Sighting::Foreign(record) = self.server.sighted(address, mac, now) else { return None };
        let noticed = "answers ARP".to_owned();
        if self.alarms.conflict(Conflict { address, mac: Some(mac), noticed, at: now }) {
            tracing::warn!(%address, %mac, "uses an address that it did not get from us; nobody else gets it");
        }
        record
    }
}

/// What a client loads, as people call it.
fn program(options: &BootOptions) -> String {
    let text = |wanted: u8| {
        let found = options.options.iter().find(|(code, _)| *code == wanted);
        found.map(|(_, data)| String::from_utf8_lossy(data).into_owned())
    };
    let file = options.file.clone().or_else(|| text(option::BOOT_FILE));
    file.or_else(|| text(stoke_api::node::DHCP_OPTION_FARM)).unwrap_or_default()
}
