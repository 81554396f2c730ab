//! Services that are changed meanwhile, that are busy, or that lead elsewhere.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use stoke_api::objects::{NetworkBoot, Power};
use stoke_bmc::{Controller, Password, Redfish, RedfishAccess, Switch};

/// Answers each request with the next of the answers, and tells what was asked: head and body.
fn service(answers: Vec<String>) -> (Controller, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (stream, _) = listener.accept().unwrap();
            serve(&stream, &answer, &tell);
        }
    });
    let password = Password::from_file_content(b"s3cret").unwrap();
    let access =
        RedfishAccess { url, user: "a".into(), password, system: None, uuid: None, ca_file: None, insecure: false };
    (Controller::Redfish(Box::new(Redfish::open(access).unwrap())), told)
}

fn serve(mut stream: &TcpStream, answer: &str, tell: &Sender<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut asked = String::new();
    while !asked.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut asked).unwrap() > 0);
    }
    let asked = asked.to_lowercase();
    let length = asked.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    tell.send(format!("{asked}{}", String::from_utf8(body).unwrap())).unwrap();
    stream.write_all(answer.as_bytes()).unwrap();
}

fn answer(status: &str, head: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\n{head}content-length: {}\r\n\r\n{body}", body.len())
}

fn found() -> Vec<String> {
    let one = r#"{"Members":[{"@odata.id":"/redfish/v1/Systems/1"}]}"#;
    vec![answer("200 OK", "", r#"{"Systems":{"@odata.id":"/redfish/v1/Systems"}}"#), answer("200 OK", "", one)]
}

fn system(tag: &str) -> String {
    let reset = r##"{"#ComputerSystem.Reset":{"target":"//elsewhere.example/reset"}}"##;
    let body = format!(r#"{{"PowerState":"On","Boot":{{"BootSourceOverrideMode":"Legacy"}},"Actions":{reset}}}"#);
    answer("200 OK", &format!("etag: \"{tag}\"\r\n"), &body)
}

#[test]
fn what_somebody_changed_meanwhile_is_read_again() {
    let changed = answer("412 Precondition Failed", "", "");
    let set = answer("204 No Content", "", "");
    let (controller, told) = service([found(), vec![system("1"), changed, system("2"), set]].concat());
    controller.boot_from_network_once(NetworkBoot::Uefi).unwrap();
    let told: Vec<_> = told.iter().collect();
    assert!(told[3].starts_with("patch /redfish/v1/systems/1 ") && told[3].contains("if-match: \"1\""), "{}", told[3]);
    assert!(told[5].contains("if-match: \"2\""), "{}", told[5]);
    assert!(told[5].contains(r#""BootSourceOverrideMode": "UEFI""#), "{}", told[5]);
}

#[test]
fn a_busy_service_is_asked_again() {
    let busy = answer("503 Service Unavailable", "", "");
    let (controller, told) = service([vec![busy], found(), vec![system("1")]].concat());
    assert_eq!(controller.power().unwrap(), Power::On);
    assert_eq!(told.iter().count(), 4);
}

#[test]
fn the_password_goes_to_no_other_host() {
    let away = answer("307 Temporary Redirect", "location: http://127.0.0.1:9/\r\n", "");
    let (controller, _) = service(vec![away]);
    assert!(controller.power().is_err());
    let (controller, told) = service([found(), vec![system("1")]].concat());
    assert!(controller.switch(Switch::On).unwrap_err().to_string().contains("another host"));
    assert_eq!(told.iter().count(), 3);
}
