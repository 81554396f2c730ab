//! The thread that answers: from the intake to the journal, or straight out if nothing has to be written first.

use std::time::Duration;

use stoke_dhcp::{Destination, MessageType, Record, Reply, Request};
use tokio_util::sync::CancellationToken;

use crate::intake::{Packet, Taken};
use crate::journal::{Commit, Writer};
use crate::metrics::count;
use crate::run::Shared;
use crate::state::now_ms;

/// Packets that are answered before the next newest ones are looked for.
const BATCH: usize = 32;
/// How soon the thread sees that it shall end.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers packets until told to stop.
pub(crate) fn run(shared: &Shared, writer: &Writer, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        for taken in shared.intake.take(BATCH, PAUSE) {
            answer(&taken, shared, writer);
        }
    }
}

fn answer(taken: &Taken, shared: &Shared, writer: &Writer) {
    let (packet, metrics) = (&taken.packet, &shared.metrics);
    let request = match Request::parse(&packet.bytes) {
        Ok(request) => request,
        Err(error) => {
            tracing::debug!(source = %packet.source, "{error}");
            return count(&metrics.dropped, "reason", "malformed");
        }
    };
    if shared.is_own(request.mac) {
        // Our own question whether there are other servers.
        return;
    }
    // What gives an address back counts, however late it is.
    if !taken.awaited && !matches!(request.kind, MessageType::Decline | MessageType::Release) {
        return count(&metrics.dropped, "reason", "given up");
    }
    count(&metrics.requests, "type", format!("{:?}", request.kind));
    let told = shared.state().answer(&request, *packet.source.ip(), packet.port, now_ms());
    let answer = &told.answer;
    tracing::debug!(mac = %request.mac, request = ?request.kind, reply = ?answer.kind, address = ?answer.address, "DHCP");
    if let Some(event) = told.event {
        shared.traces.note(event);
    }
    if let Some(address) = told.unproved {
        shared.prove(address);
    }
    if told.loops {
        metrics.loops.inc();
    }
    if answer.exhausted {
        count(&metrics.dropped, "reason", "exhausted");
    }
    if let Some(kind) = answer.kind {
        count(&metrics.replies, "type", format!("{kind:?}"));
    }
    conclude(packet, told.answer.record, told.answer.reply, shared, writer);
}

fn conclude(packet: &Packet, record: Option<Record>, reply: Option<Reply>, shared: &Shared, writer: &Writer) {
    if let Some(record) = record {
        if !writer.commit(Commit { records: vec![record], reply }) {
            count(&shared.metrics.dropped, "reason", "disk");
        }
        return;
    }
    let Some(reply) = reply else { return };
    match (&packet.back, shared.outlet()) {
        (Some(socket), _) if reply.to == Destination::Back => {
            if let Err(error) = socket.send_to(&reply.bytes, packet.source) {
                tracing::warn!(to = %packet.source, "cannot send a ProxyDHCP reply: {error}");
            }
        }
        (_, Some(outlet)) => outlet.send(&reply),
        (_, None) => {}
    }
}
