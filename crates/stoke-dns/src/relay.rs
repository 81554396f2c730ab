//! A question passed on to an upstream server.

use hickory_proto::op::{Message, MessageType, ResponseCode};

/// Fixed part of a message (RFC 1035 section 4.1.1).
const HEADER: usize = 12;

/// A question on its way. The id is chosen anew, so that nobody can answer who has only seen or guessed the client's.
#[derive(Clone, Debug)]
pub struct Relayed {
    question: Vec<u8>,
    original: [u8; 2],
}

impl Relayed {
    /// Takes a client's packet; `None` if it is too short to be one.
    pub fn new(packet: &[u8], id: u16) -> Option<Self> {
        let (original, rest) = packet.split_first_chunk::<2>()?;
        let question = [id.to_be_bytes().as_slice(), rest].concat();
        (packet.len() > HEADER).then_some(Self { question, original: *original })
    }

    /// What is sent to the upstream server.
    pub fn packet(&self) -> &[u8] {
        &self.question
    }

    /// The packet for the client, if `response` is the answer to this question: a response, same id, same question
    /// (RFC 5452 section 9.1).
    pub fn accept(&self, response: &[u8]) -> Option<Vec<u8>> {
        let (asked, told) = (Message::from_vec(&self.question).ok()?, Message::from_vec(response).ok()?);
        let same = asked.id == told.id && asked.queries == told.queries && told.message_type == MessageType::Response;
        // A server that cannot read the question returns the header alone.
        let header_only = asked.id == told.id && told.queries.is_empty() && told.response_code != ResponseCode::NoError;
        (same || header_only).then(|| [self.original.as_slice(), response.get(2..).unwrap_or_default()].concat())
    }
}

/// The answer to a client when nobody upstream has answered.
pub fn failure(packet: &[u8]) -> Option<Vec<u8>> {
    let asked = Message::from_vec(packet).ok()?;
    let mut message = Message::error_msg(asked.id, asked.op_code, ResponseCode::ServFail);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(asked.queries);
    message.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    fn question(name: &str) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        message.to_vec().unwrap()
    }

    fn response(name: &str, id: u16) -> Vec<u8> {
        let mut message = Message::from_vec(&question(name)).unwrap().into_response();
        message.metadata.id = id;
        message.to_vec().unwrap()
    }

    #[test]
    fn the_client_gets_its_own_id_back() {
        let relayed = Relayed::new(&question("a.example."), 0x1234).unwrap();
        assert_eq!(relayed.packet().get(..2), Some([0x12, 0x34].as_slice()));
        assert_eq!(relayed.accept(&response("a.example.", 0x1234)), Some(response("a.example.", 7)));
    }

    #[test]
    fn answers_to_other_questions_and_questions_are_no_answers() {
        let relayed = Relayed::new(&question("a.example."), 0x1234).unwrap();
        assert_eq!(relayed.accept(&response("b.example.", 0x1234)), None);
        assert_eq!(relayed.accept(&response("a.example.", 0x1235)), None);
        assert_eq!(relayed.accept(relayed.packet()), None);
    }

    #[test]
    fn nobody_upstream_is_a_failure_of_the_server() {
        let told = Message::from_vec(&failure(&question("a.example.")).unwrap()).unwrap();
        assert_eq!((told.id, told.response_code), (7, ResponseCode::ServFail));
        assert_eq!(told.queries.len(), 1);
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = failure(&bytes);
            if let Some(relayed) = Relayed::new(&bytes, 1) {
                let _ = relayed.accept(&bytes);
            }
        }
    }
}
