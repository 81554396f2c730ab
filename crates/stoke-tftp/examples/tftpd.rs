//! Serves the files of a folder, read into memory: `tftpd ADDRESS:PORT FOLDER [classic]`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use stoke_tftp::server::{Content, Counters, Files, Ports, Settings, plain_name, serve};
use tokio_util::sync::CancellationToken;

struct Folder(HashMap<String, Arc<Vec<u8>>>);

impl Files for Folder {
    fn open(&self, name: &str, _: SocketAddr) -> Option<Arc<dyn Content>> {
        Some(self.0.get(name)?.clone())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(address), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err(std::io::Error::other("usage: tftpd ADDRESS:PORT FOLDER [classic]"));
    };
    let ports = if arguments.next().is_some() { Ports::Classic } else { Ports::Single };
    let mut files = HashMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let content = Arc::new(std::fs::read(entry.path())?);
        files.insert(plain_name(&entry.file_name().to_string_lossy()), content);
    }
    let socket = tokio::net::UdpSocket::bind(address).await?;
    let settings = Settings { ports, ..Settings::default() };
    let counters = Arc::new(Counters::default());
    serve(socket, Arc::new(Folder(files)), settings, counters, CancellationToken::new()).await
}
