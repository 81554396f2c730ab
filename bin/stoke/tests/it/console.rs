//! `stoke console` against the other end of the socket: what a machine's process does, and what happens when it goes.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Stdio};

use crate::stoke::Stoke;

/// The console socket of machine `a`, where nobody has to be asked for it.
fn listen(stoke: &Stoke) -> UnixListener {
    let folder = stoke.state.path().join("run/workloads/vm-default-a");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("console.sock");
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(path).unwrap()
}

fn attach(stoke: &Stoke, stdin: Stdio) -> Child {
    stoke.command().args(["console", "a"]).stdin(stdin).stdout(Stdio::piped()).spawn().unwrap()
}

fn accept(listener: &UnixListener, history: &[u8]) -> UnixStream {
    let (mut viewer, _) = listener.accept().unwrap();
    viewer.write_all(history).unwrap();
    viewer
}

fn shown(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn without_input_it_is_a_dump_of_the_history() {
    let stoke = Stoke::new();
    let listener = listen(&stoke);
    let child = attach(&stoke, Stdio::null());
    let _viewer = accept(&listener, b"node-1 login: ");
    assert_eq!(shown(child), "node-1 login: ");
}

#[test]
fn a_pipe_types_and_reads_the_answer() {
    let stoke = Stoke::new();
    let listener = listen(&stoke);
    let mut child = attach(&stoke, Stdio::piped());
    let mut viewer = accept(&listener, b"$ ");
    child.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let mut typed = [0; 6];
    viewer.read_exact(&mut typed).unwrap();
    viewer.write_all(b"answer").unwrap();
    assert_eq!((&typed, shown(child).as_str()), (b"hello\n", "$ answer"));
}

#[test]
fn a_console_that_comes_back_shows_what_is_new_only() {
    let stoke = Stoke::new();
    let first = listen(&stoke);
    let mut child = attach(&stoke, Stdio::piped());
    let mut viewer = accept(&first, b"boot\n");
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    viewer.read_exact(&mut [0]).unwrap();
    drop((viewer, first));
    let second = listen(&stoke);
    let _viewer = accept(&second, b"boot\nlogin: ");
    let mut output = child.stdout.take().unwrap();
    let mut all = [0; 12];
    output.read_exact(&mut all).unwrap();
    drop(child.stdin.take());
    assert_eq!(&all, b"boot\nlogin: ");
    assert!(child.wait().unwrap().success());
}
