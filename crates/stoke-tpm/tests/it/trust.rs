//! The conversation between node and farm, with a TPM that is real but for its hardware.

use stoke_tpm::quote::{QuoteError, Registers};
use stoke_tpm::{Template, credential, extend};
use testbed::tpm::Simulator;

const REGISTERS: [u32; 9] = [0, 1, 2, 3, 4, 7, 11, 12, 23];

#[test]
fn a_credential_opens_in_the_tpm_that_it_was_made_for() {
    let simulator = Simulator::start().unwrap();
    let mut tpm = simulator.connect().unwrap();
    let endorsement = tpm.create(Template::Endorsement).unwrap();
    let attestation = tpm.create(Template::Attestation).unwrap();
    let secret = b"thirty-two bytes, as a nonce has";
    let made = credential::wrap(&endorsement.point, &attestation.point, secret).unwrap();
    assert_eq!(tpm.activate(endorsement, attestation, &made).unwrap(), secret);
    // Again: nothing is used up, and no session is left behind.
    for _ in 0..4 {
        assert_eq!(tpm.activate(endorsement, attestation, &made).unwrap(), secret);
    }
}

#[test]
fn a_credential_for_other_keys_stays_shut() {
    let (ours, theirs) = (Simulator::start().unwrap(), Simulator::start().unwrap());
    let (mut tpm, mut other) = (ours.connect().unwrap(), theirs.connect().unwrap());
    let endorsement = tpm.create(Template::Endorsement).unwrap();
    let attestation = tpm.create(Template::Attestation).unwrap();
    let stolen = other.create(Template::Endorsement).unwrap();
    let elsewhere = other.create(Template::Attestation).unwrap();
    assert_ne!(endorsement.point, stolen.point);
    for (to, key) in [(stolen.point, attestation.point), (endorsement.point, elsewhere.point)] {
        let made = credential::wrap(&to, &key, b"secret").unwrap();
        assert!(tpm.activate(endorsement, attestation, &made).is_err());
    }
}

#[test]
fn keys_are_the_same_each_time() {
    let simulator = Simulator::start().unwrap();
    let made = |template| {
        let mut tpm = simulator.connect().unwrap();
        let key = tpm.create(template).unwrap();
        tpm.flush(key).unwrap();
        key.point
    };
    for template in [Template::Endorsement, Template::Attestation] {
        assert_eq!(made(template), made(template));
    }
    assert_ne!(made(Template::Endorsement), made(Template::Attestation));
}

#[test]
fn a_quote_is_about_the_registers_as_they_are() {
    let simulator = Simulator::start().unwrap();
    simulator.extend(23, &[5; 32]).unwrap();
    let mut tpm = simulator.connect().unwrap();
    let key = tpm.create(Template::Attestation).unwrap();
    let registers = tpm.registers(&REGISTERS).unwrap();
    assert_eq!(registers.len(), REGISTERS.len());
    assert_eq!(registers[&23], extend(&[0; 32], &[5; 32]));
    let quote = tpm.quote(key, b"nonce", &REGISTERS).unwrap();
    assert_eq!(quote.verify(&key.point, b"nonce", &registers), Ok(()));
    assert_eq!(quote.verify(&key.point, b"another", &registers), Err(QuoteError::Nonce));
    let mut other = registers.clone();
    other.insert(4, [1; 32]);
    assert_eq!(quote.verify(&key.point, b"nonce", &other), Err(QuoteError::Registers));
    let fewer: Registers = registers.iter().skip(1).map(|(number, value)| (*number, *value)).collect();
    assert_eq!(quote.verify(&key.point, b"nonce", &fewer), Err(QuoteError::Registers));
    let mut forged = quote.clone();
    let last = forged.statement.len() - 1;
    forged.statement[last] ^= 1;
    assert_eq!(forged.verify(&key.point, b"nonce", &registers), Err(QuoteError::Signature));
    let endorsement = tpm.create(Template::Endorsement).unwrap();
    assert_eq!(quote.verify(&endorsement.point, b"nonce", &registers), Err(QuoteError::Signature));
}

#[test]
fn a_tpm_without_a_certificate_has_none() {
    assert_eq!(Simulator::start().unwrap().connect().unwrap().certificate().unwrap(), None);
}
